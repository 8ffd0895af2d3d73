import Foundation

/// A decoded image: stored pixels, row by row, and how they are to be turned.
public struct Picture: Sendable {
    /// The bytes of a pixel.
    public enum Layout: Sendable {
        /// Red, green and blue.
        case rgb
        /// Red, green, blue and opacity; colours are as stored, not multiplied by the opacity.
        case straightRGBA
        /// Red, green, blue and opacity; colours are `c * a / 255`, rounded to the nearest integer.
        case premultipliedRGBA

        var bytesPerPixel: Int { self == .rgb ? 3 : 4 }
    }

    /// Stored pixels in a row.
    public let width: Int
    /// Stored rows.
    public let height: Int
    public let layout: Layout
    /// EXIF orientation; any value but 2 to 8 means upright.
    public let orientation: Int
    /// `width * height` pixels without gaps.
    public let bytes: [UInt8]

    /// - Throws: `BundleError` if there are no pixels or `bytes` has another length.
    public init(
        width: Int, height: Int, bytes: [UInt8], layout: Layout = .rgb, orientation: Int = 1
    ) throws {
        let pixels = bytes.count / layout.bytesPerPixel
        guard width > 0, height > 0, pixels * layout.bytesPerPixel == bytes.count,
            pixels.isMultiple(of: width), pixels / width == height
        else {
            throw BundleError(
                subject: "picture",
                problem: "\(bytes.count) bytes are not \(width) by \(height) pixels of \(layout)",
                fix: "Pass rows without gaps, \(layout.bytesPerPixel) bytes to a pixel")
        }
        (self.width, self.height, self.bytes) = (width, height, bytes)
        (self.layout, self.orientation) = (layout, orientation)
    }

    fileprivate var isTransposed: Bool { (5...8).contains(orientation) }
    fileprivate var uprightWidth: Int { isTransposed ? height : width }
    fileprivate var uprightHeight: Int { isTransposed ? width : height }
}

/// How an image becomes the model's pixels: the image part of preprocess.json.
public struct ImageSpec: Equatable, Sendable {
    public enum Mode: String, CaseIterable, Sendable {
        /// Shows the whole image, centred on white.
        case fit
        /// Fills the model's size and cuts the longer side's ends.
        case crop
    }

    /// Width of the model's pixels.
    public let width: Int
    /// Height of the model's pixels.
    public let height: Int
    public let mode: Mode
    /// The most pixels of an image that is read.
    public let maxPixels: Int

    /// Reads the content of preprocess.json.
    ///
    /// - Throws: `BundleError` that names the key whose value is missing, invalid or unknown.
    public init(json content: Data) throws {
        let image = try JSON(content, file: "preprocess.json")["image"]
        let size = try image["size"].list().map { try $0.int(from: 1, to: 16_384) }
        guard size.count == 2 else { throw try image["size"].error("is not height and width") }
        (height, width) = (size[0], size[1])
        mode = try image["mode"].choice(Mode.self)
        let maxPixels = try image.object()["max_pixels"]?.int(from: 1, to: Int(Int32.max))
        self.maxPixels = maxPixels ?? Self.largestWholeJPEG
        try image["resize"].check("pillow-bilinear-antialiased-uint8")
        try image["orientation"].check("exif")
        try image["color"].check("RGB")
        try image["dtype"].check("uint8")
        try image["normalization"].check("inside the model")
        let background = try image["background"].list().map { try $0.int(from: 0, to: 255) }
        guard background == [255, 255, 255] else {
            throw try image["background"].error("is not white")
        }
    }

    /// Returns the model's pixels of an image, steps 2 to 6 of docs/preprocessing.md.
    ///
    /// - Returns: `height * width * 3` bytes: rows of red, green and blue.
    /// - Throws: `BundleError` if the image has more than `maxPixels` pixels.
    public func pixels(of picture: Picture) throws -> [UInt8] {
        try checkSize(picture.width, picture.height)
        let (scaledWidth, scaledHeight) = scaledSize(picture.uprightWidth, picture.uprightHeight)
        let across = Side(size: picture.uprightWidth, scaled: scaledWidth, kept: width)
        let down = Side(size: picture.uprightHeight, scaled: scaledHeight, kept: height)
        // Between both passes: the rows that count, as wide as the result needs them.
        let rows = down.source
        let rowBytes = 3 * across.window.count
        var narrow = [UInt8](repeating: 0, count: rows.count * rowBytes)
        var result = [UInt8](repeating: 255, count: height * width * 3)
        picture.bytes.withUnsafeBufferPointer { stored in
            narrow.withUnsafeMutableBufferPointer { narrow in
                across.resize(
                    Source(picture, stored), lines: rows,
                    to: Target(bytes: narrow, origin: 0, along: 3, across: rowBytes))
            }
        }
        narrow.withUnsafeBufferPointer { narrow in
            result.withUnsafeMutableBufferPointer { result in
                let source = Source(
                    bytes: narrow, layout: .rgb, origin: -rows.lowerBound * rowBytes,
                    along: rowBytes, across: 3)
                let origin = 3 * (down.padding * width + across.padding)
                down.resize(
                    source, lines: 0..<across.window.count,
                    to: Target(bytes: result, origin: origin, along: 3 * width, across: 3))
            }
        }
        return result
    }

    /// Returns by what factor a decoder shrinks an image, 1 or 2, from the size that the file
    /// states (step 1): a decoder calls this before it takes memory for pixels.
    ///
    /// - Throws: `BundleError` if the image has more than `maxPixels` pixels even so.
    public func subsampling(width: Int, height: Int, isJPEG: Bool) throws -> Int {
        guard isJPEG, isMore(width, height, than: Self.largestWholeJPEG) else {
            try checkSize(width, height)
            return 1
        }
        try checkSize(width / 2 + width % 2, height / 2 + height % 2)
        return 2
    }

    private func checkSize(_ width: Int, _ height: Int) throws {
        guard !isMore(width, height, than: maxPixels) else {
            throw BundleError(
                subject: "picture",
                problem: "\(width) by \(height) are more than \(maxPixels) pixels",
                fix: "Decode it at a smaller size")
        }
    }

    private func isMore(_ width: Int, _ height: Int, than limit: Int) -> Bool {
        let (pixels, isOverflow) = width.multipliedReportingOverflow(by: height)
        return isOverflow || pixels > limit
    }

    private static let largestWholeJPEG = 89_478_485

    /// Returns width and height to scale an upright image to (step 4).
    func scaledSize(_ width: Int, _ height: Int) -> (width: Int, height: Int) {
        let isWider = width * self.height > height * self.width
        if isWider == (mode == .fit) {
            return (self.width, max(1, halfUp(height * self.width, width)))
        }
        return (max(1, halfUp(width * self.height, height)), self.height)
    }

    private func halfUp(_ numerator: Int, _ denominator: Int) -> Int {
        (2 * numerator + denominator) / (2 * denominator)
    }
}

/// One side of an image in a resize (step 5), and the part of it that the model takes (step 6).
private struct Side {
    /// Pixels before.
    let size: Int
    /// Pixels of the whole scaled side.
    let scaled: Int
    /// The scaled pixels that are computed.
    let window: Range<Int>
    /// White pixels before the window.
    let padding: Int

    init(size: Int, scaled: Int, kept: Int) {
        (self.size, self.scaled) = (size, scaled)
        let first = max(0, (scaled - kept) / 2)
        window = first..<first + min(scaled, kept)
        padding = max(0, (kept - scaled) / 2)
    }

    private var scale: Double { Double(size) / Double(scaled) }
    private var support: Double { max(1, scale) }

    /// The pixels that the window is made of.
    var source: Range<Int> {
        reach(window.lowerBound).lowerBound..<reach(window.upperBound - 1).upperBound
    }

    private func centre(_ position: Int) -> Double {
        (Double(position) + 0.5) * scale
    }

    /// Returns the pixels that count for a scaled one.
    private func reach(_ position: Int) -> Range<Int> {
        let centre = centre(position)
        return max(0, Int(centre - support + 0.5))..<min(size, Int(centre + support + 0.5))
    }

    /// Returns the weights of the pixels that count for a scaled one, as multiples of 2^-22.
    private func weights(_ position: Int) -> [Int32] {
        let centre = centre(position)
        var sum = 0.0
        let weights = reach(position).map { pixel in
            let weight = max(0, 1 - abs((Double(pixel) + 0.5 - centre) / support))
            sum += weight
            return weight
        }
        return weights.map { Int32(($0 / sum * 4_194_304 + 0.5).rounded(.down)) }
    }

    /// Resizes some lines along this side, each pixel rounded to 8 bits.
    ///
    /// A side that keeps its length has weights of 2^22 and 0, which change nothing.
    func resize(_ source: Source, lines: Range<Int>, to target: Target) {
        for (column, position) in window.enumerated() {
            let first = reach(position).lowerBound
            weights(position).withUnsafeBufferPointer { weights in
                for (row, line) in lines.enumerated() {
                    let start = source.origin + first * source.along + line * source.across
                    let sums = source.sums(weights, from: start)
                    let offset = target.origin + column * target.along + row * target.across
                    for channel in 0..<3 {
                        target.bytes[offset + channel] = UInt8(clamping: sums[channel] >> 22)
                    }
                }
            }
        }
    }
}

/// Where pixels are written; `along` and `across` as in `Source`.
private struct Target {
    let bytes: UnsafeMutableBufferPointer<UInt8>
    let origin: Int
    let along: Int
    let across: Int
}

/// Where pixels are read: `along` and `across` are bytes from a pixel to the next one on its line,
/// and from a line to the next one.
private struct Source {
    let bytes: UnsafeBufferPointer<UInt8>
    let layout: Picture.Layout
    let origin: Int
    let along: Int
    let across: Int

    /// Returns the weighted sums of the channels of adjacent pixels, with 2^21 for rounding.
    ///
    /// 32 bits hold them: rounding at most doubles a weight, so weights add up to 2^23 or less.
    @inline(__always)
    func sums(_ weights: UnsafeBufferPointer<Int32>, from start: Int) -> SIMD3<Int32> {
        var sums = SIMD3<Int32>(repeating: 1 << 21)
        var offset = start
        for weight in weights {
            sums &+= weight &* colour(at: offset)
            offset += along
        }
        return sums
    }

    /// Returns red, green and blue of a pixel over white (step 3).
    @inline(__always)
    private func colour(at offset: Int) -> SIMD3<Int32> {
        let (red, green, blue) = (bytes[offset], bytes[offset + 1], bytes[offset + 2])
        let stored = SIMD3(Int32(red), Int32(green), Int32(blue))
        switch layout {
        case .rgb:
            return stored
        case .straightRGBA:
            let opacity = Int32(bytes[offset + 3])
            return (stored &* opacity &+ (255 &* (255 &- opacity) &+ 127)) / 255
        case .premultipliedRGBA:
            return pointwiseMin(stored &+ (255 &- Int32(bytes[offset + 3])), SIMD3(repeating: 255))
        }
    }
}

extension Source {
    /// Reads a picture as if it were upright (step 2).
    init(_ picture: Picture, _ stored: UnsafeBufferPointer<UInt8>) {
        let pixel = picture.layout.bytesPerPixel
        let row = pixel * picture.width
        let (right, down) = picture.isTransposed ? (row, pixel) : (pixel, row)
        let isMirrored = [2, 3, 6, 7].contains(picture.orientation)
        let isUpsideDown = [3, 4, 7, 8].contains(picture.orientation)
        self.init(
            bytes: stored, layout: picture.layout,
            origin: (isMirrored ? (picture.uprightWidth - 1) * right : 0)
                + (isUpsideDown ? (picture.uprightHeight - 1) * down : 0),
            along: isMirrored ? -right : right,
            across: isUpsideDown ? -down : down)
    }
}
