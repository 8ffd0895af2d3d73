#if canImport(ImageIO)
    import CoreGraphics
    import Foundation
    import ImageIO
    import MsdDeployCore

    /// Decodes image files with ImageIO (step 1 of docs/preprocessing.md).
    ///
    /// No colour profile is applied: the stored numbers are used as they are, as in Python. That
    /// also holds for photos in Display P3, which an image view shows in more vivid colours.
    ///
    /// These differ from Python:
    /// - HEIC files and others that Python refuses are read as well.
    /// - Lossy formats may differ by a few steps in a pixel, more in a JPEG that is halved.
    /// - 16 bits a channel are brought to 8 as Core Graphics rounds; partly transparent pixels may
    ///   differ by 1 where it rounds products otherwise than to the nearest integer.
    /// - CMYK, Lab and floating-point images are converted by their profile.
    /// - The rest of a file that was cut short may be grey instead of an error.
    /// - Of an icon file the first image is read, not the largest.
    public struct ImageIODecoder: ImageDecoder {
        private let spec: ImageSpec

        /// - Parameter spec: Has the most pixels that an image may have.
        public init(_ spec: ImageSpec) {
            self.spec = spec
        }

        /// Returns stored pixels and the orientation.
        ///
        /// - Throws: `BundleError` if ImageIO reads no image, or one of too many pixels.
        public func decode(_ file: Data) throws -> Picture {
            guard let source = CGImageSourceCreateWithData(file as CFData, nil),
                CGImageSourceGetCount(source) > 0
            else { throw Self.error("is not of a format that ImageIO reads") }
            let index = CGImageSourceGetPrimaryImageIndex(source)
            let stated = CGImageSourceCopyPropertiesAtIndex(source, index, nil)
            guard let properties = stated as? [CFString: Any],
                let width = properties[kCGImagePropertyPixelWidth] as? Int,
                let height = properties[kCGImagePropertyPixelHeight] as? Int
            else { throw Self.error("states no size") }
            let isJPEG = CGImageSourceGetType(source) as String? == "public.jpeg"
            let factor = try spec.subsampling(width: width, height: height, isJPEG: isJPEG)
            // Not kept in memory beside the pixels that are drawn.
            var options: [CFString: Any] = [kCGImageSourceShouldCache: false]
            if factor > 1 { options[kCGImageSourceSubsampleFactor] = factor }
            let decoded = CGImageSourceCreateImageAtIndex(source, index, options as CFDictionary)
            guard let image = decoded else { throw Self.error("is damaged") }
            return try Picture(
                width: image.width, height: image.height, bytes: Self.pixels(of: image),
                layout: .premultipliedRGBA,
                orientation: properties[kCGImagePropertyOrientation] as? Int ?? 1)
        }

        /// Draws an image into RGBA: nothing is converted where both have the same colour space.
        private static func pixels(of image: CGImage) throws -> [UInt8] {
            let rgb = CGColorSpaceCreateDeviceRGB()
            let drawn: [UInt8]?
            switch image.colorSpace?.model {
            case .rgb:
                drawn = draw(image.copy(colorSpace: rgb) ?? image, in: rgb, .premultipliedLast, 4)
            case .indexed:
                let space = image.colorSpace?.baseColorSpace
                let isRGB = space?.model == .rgb && space?.supportsOutput == true
                drawn = draw(image, in: isRGB ? space ?? rgb : rgb, .premultipliedLast, 4)
            case .monochrome:
                drawn = greyPixels(of: image)
            default:
                drawn = draw(image, in: rgb, .premultipliedLast, 4)
            }
            guard let drawn else { throw error("cannot be drawn") }
            return drawn
        }

        /// Draws greys and opacities each by themselves: there is no context of both, and one of
        /// RGB converts greys.
        private static func greyPixels(of image: CGImage) -> [UInt8]? {
            let space = CGColorSpaceCreateDeviceGray()
            let grey = image.copy(colorSpace: space) ?? image
            guard let values = draw(grey, in: space, .none, 1),
                let opacities = draw(grey, in: space, .alphaOnly, 1)
            else { return nil }
            var pixels: [UInt8] = []
            pixels.reserveCapacity(4 * values.count)
            for (value, opacity) in zip(values, opacities) {
                for _ in 0..<3 { pixels.append(value) }
                pixels.append(opacity)
            }
            return pixels
        }

        /// Draws an image at its own size over zeros; nil if Core Graphics has no such context.
        private static func draw(
            _ image: CGImage, in space: CGColorSpace, _ alpha: CGImageAlphaInfo,
            _ bytesPerPixel: Int
        ) -> [UInt8]? {
            let rowBytes = image.width * bytesPerPixel
            var bytes = [UInt8](repeating: 0, count: image.height * rowBytes)
            let isDrawn = bytes.withUnsafeMutableBytes { bytes in
                guard
                    let context = CGContext(
                        data: bytes.baseAddress, width: image.width, height: image.height,
                        bitsPerComponent: 8, bytesPerRow: rowBytes, space: space,
                        bitmapInfo: alpha.rawValue)
                else { return false }
                context.interpolationQuality = .none
                context.draw(
                    image, in: CGRect(x: 0, y: 0, width: image.width, height: image.height))
                return true
            }
            return isDrawn ? bytes : nil
        }

        private static func error(_ problem: String) -> BundleError {
            BundleError(
                subject: "image file", problem: problem,
                fix: "Pass the whole content of a JPEG, PNG or HEIC file")
        }
    }
#endif
