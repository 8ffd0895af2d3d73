import Foundation
import Testing

@testable import MsdDeployCore

private func spec(mode: String = "fit", size: String = "[48, 48]") throws -> ImageSpec {
    let json = try changed(Spec.preprocess(), "image.size", to: size)
    return try ImageSpec(json: changed(json, "image.mode", to: "\"\(mode)\""))
}

@Test func everyNoiseImageBecomesTheSamePixels() throws {
    let vectors = try Spec.json("vectors.json")["noise"].list()
    let spec = try ImageSpec(json: Spec.preprocess())
    #expect(vectors.count == 36)
    for vector in vectors {
        let digest = try SHA256.hexDigest(of: spec.pixels(of: Picture(noise: vector)))
        #expect(try digest == vector["model_pixels"].text(), "\(vector)")
    }
}

@Test func premultipliedColoursBecomeTheSameAsStraightOnes() throws {
    var straight: [UInt8] = []
    var premultiplied: [UInt8] = []
    for opacity in 0...255 {
        for colour in 0...255 {
            let product = UInt8((Double(colour * opacity) / 255).rounded())
            straight += [UInt8(colour), 0, 255, UInt8(opacity)]
            premultiplied += [product, 0, UInt8(opacity), UInt8(opacity)]
        }
    }
    let spec = try spec(size: "[256, 256]")
    let expected = try Picture(width: 256, height: 256, bytes: straight, layout: .straightRGBA)
    let picture = try Picture(
        width: 256, height: 256, bytes: premultiplied, layout: .premultipliedRGBA)
    #expect(try spec.pixels(of: picture) == spec.pixels(of: expected))
    let invalid = try Picture(
        width: 1, height: 1, bytes: [9, 8, 7, 0], layout: .premultipliedRGBA)
    #expect(try spec.pixels(of: invalid).allSatisfy { $0 == 255 })
}

@Test(arguments: [
    (100, 50, "fit", 48, 24), (50, 100, "fit", 24, 48), (1000, 1, "fit", 48, 1),
    (101, 50, "crop", 97, 48), (33, 100, "crop", 48, 145),
])
func scaledSizesAreThoseOfTheDocument(
    width: Int, height: Int, mode: String, scaledWidth: Int, scaledHeight: Int
) throws {
    #expect(try spec(mode: mode).scaledSize(width, height) == (scaledWidth, scaledHeight))
}

@Test(.timeLimit(.minutes(1)), arguments: ["fit", "crop"], [true, false])
func aLineOfAMillionPixelsIsResizedInLittleMemory(mode: String, isTall: Bool) throws {
    let length = 1_000_000
    let bytes = (0..<length).flatMap { pixel in
        [UInt8](repeating: UInt8(pixel * 251 / length), count: 3)
    }
    let picture = try Picture(
        width: isTall ? 1 : length, height: isTall ? length : 1, bytes: bytes)
    let spec = try spec(mode: mode)
    let before = peakMemoryBytes()
    let pixels = try spec.pixels(of: picture)
    #expect(peakMemoryBytes() - before < 64_000_000)
    // fit shows the whole line in the middle, crop the pixel in the middle of the line.
    for position in 0..<48 {
        let offset = isTall ? (position * 48 + 23) * 3 : (23 * 48 + position) * 3
        let expected = mode == "fit" ? position * 250 / 47 : 125
        #expect(abs(Int(pixels[offset]) - expected) <= 3)
    }
}

@Test(arguments: [-1, 0, 1, 9])
func unknownOrientationsMeanUpright(orientation: Int) throws {
    let bytes = (0..<60).map(UInt8.init)
    let upright = try Picture(width: 5, height: 4, bytes: bytes)
    let picture = try Picture(width: 5, height: 4, bytes: bytes, orientation: orientation)
    #expect(try spec().pixels(of: picture) == spec().pixels(of: upright))
}

@Test func aPictureOfAnotherLengthIsRefused() {
    for (width, height, count) in [(2, 2, 11), (2, 2, 13), (0, 0, 0), (-2, -2, 12), (2, 3, 12)] {
        let bytes = [UInt8](repeating: 0, count: count)
        let message = message { try Picture(width: width, height: height, bytes: bytes) }
        #expect(message?.contains("are not \(width) by \(height) pixels of rgb") == true)
    }
}

@Test func aPictureOfTooManyPixelsIsRefused() throws {
    let spec = try ImageSpec(json: changed(Spec.preprocess(), "image.max_pixels", to: "6"))
    let bytes = [UInt8](repeating: 0, count: 21)
    #expect(throws: BundleError.self) {
        try spec.pixels(of: Picture(width: 7, height: 1, bytes: bytes))
    }
    #expect(try spec.pixels(of: Picture(width: 2, height: 3, bytes: Array(bytes[..<18]))).count > 0)
}

@Test func aJPEGOfMorePixelsThanThatIsDecodedAtHalfItsSize() throws {
    let spec = try spec()
    // 89,478,485 pixels are 5 by 17,895,697.
    #expect(try spec.subsampling(width: 5, height: 17_895_697, isJPEG: true) == 1)
    #expect(try spec.subsampling(width: 17_895_698, height: 5, isJPEG: true) == 2)
    #expect(try spec.subsampling(width: 20_000, height: 17_000, isJPEG: true) == 2)
    for (width, height, isJPEG) in [
        (17_895_698, 5, false), (20_000, 18_000, true), (Int.max, Int.max, true),
        (Int.max, Int.max, false),
    ] {
        #expect(throws: BundleError.self) {
            try spec.subsampling(width: width, height: height, isJPEG: isJPEG)
        }
    }
    let lower = try ImageSpec(json: changed(Spec.preprocess(), "image.max_pixels", to: "6"))
    #expect(throws: BundleError.self) {
        try lower.subsampling(width: 7, height: 1, isJPEG: true)
    }
}

@Test(arguments: [
    ("schema_version", "2", "schema_version is not 1. Use the Swift package"),
    ("image", nil, "has no image"),
    ("image", "[]", "image is not an object"),
    ("image.size", "[48]", "image.size is not height and width"),
    ("image.size", "[0, 48]", "image.size[0] is not a whole number from 1 to 16384"),
    ("image.size", "[48, 48.5]", "image.size[1] is not a whole number"),
    ("image.mode", #""stretch""#, #"image.mode is not one of ["fit", "crop"]"#),
    ("image.resize", #""area""#, #"image.resize is not "pillow-bilinear-antialiased-uint8""#),
    ("image.orientation", #""none""#, #"image.orientation is not "exif""#),
    ("image.background", "[255, 255, 0]", "image.background is not white"),
    ("image.color", #""BGR""#, #"image.color is not "RGB""#),
    ("image.dtype", "8", #"image.dtype is not "uint8""#),
    ("image.normalization", #""mean""#, #"image.normalization is not "inside the model""#),
    ("image.max_pixels", "0", "image.max_pixels is not a whole number from 1 to"),
])
func anInvalidPreprocessJSONIsRefusedByItsKey(
    key: String, value: String?, expected: String
) throws {
    let json = try changed(Spec.preprocess(), key, to: value)
    let message = message { try ImageSpec(json: json) }
    #expect(message?.hasPrefix("preprocess.json: \(expected)") == true, "\(message ?? "no error")")
}
