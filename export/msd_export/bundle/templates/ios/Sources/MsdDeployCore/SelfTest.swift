import Foundation

/// Decodes image files (step 1 of docs/preprocessing.md).
public protocol ImageDecoder: Sendable {
    /// Returns stored pixels, without a colour profile applied, and the EXIF orientation.
    func decode(_ file: Data) throws -> Picture
}

/// A test vector with another result than Python's.
public struct Difference: Equatable, Sendable, CustomStringConvertible {
    /// Its place in vectors.json, such as `noise[3]`.
    public let vector: String
    /// What differs.
    public let problem: String

    public var description: String { "\(vector): \(problem)" }
}

extension MultimodalClassifier {
    /// Replays test vectors ("Test vectors" in docs/preprocessing.md): texts, noise and examples.
    ///
    /// Identifiers, words and pixels are equal, or they differ. A probability may differ by the
    /// `tolerance` of vectors.json, by 0.001 without one; logits are not compared. Decisions may
    /// differ where the stated probabilities are that close to another decision.
    ///
    /// - Parameters:
    ///   - folder: What `msd vectors` wrote: vectors.json and its examples' images. Not verified.
    ///   - tolerance: Replaces that of vectors.json.
    ///   - decoder: Reads PNG files.
    /// - Returns: Every difference; none if this device does what Python does.
    /// - Throws: `BundleError` if a file cannot be read or has no texts, noise or examples; what the
    ///   runtime throws.
    public func selfTest(
        vectors folder: URL, tolerance: Double? = nil, decoder: any ImageDecoder
    ) async throws -> [Difference] {
        try await selfTest(decoder, within: tolerance) { try readFile($0, in: folder) }
    }

    /// Replays the bundle's test vectors, verified; see `selfTest(vectors:tolerance:decoder:)`.
    public func selfTest(decoder: any ImageDecoder) async throws -> [Difference] {
        try await selfTest(decoder, within: nil, read: bundle.read)
    }

    private func selfTest(
        _ decoder: any ImageDecoder, within tolerance: Double?, read: (String) throws -> Data
    ) async throws -> [Difference] {
        let vectors = try JSON(read("vectors.json"), file: "vectors.json")
        let stated = try vectors.object()["tolerance"]?.probability()
        let tolerance = tolerance ?? stated ?? 0.001
        var differences: [Difference] = []
        for (index, vector) in try vectors["texts"].filledList().enumerated() {
            guard let problem = try textDifference(vector) else { continue }
            differences.append(Difference(vector: "texts[\(index)]", problem: problem))
        }
        for (index, vector) in try vectors["noise"].filledList().enumerated() {
            guard let problem = try noiseDifference(vector) else { continue }
            differences.append(Difference(vector: "noise[\(index)]", problem: problem))
        }
        for (index, example) in try vectors["examples"].filledList().enumerated() {
            let file = try example["image"].textOrNull().map(read)
            let image: Picture?
            do {
                image = try file.map(decoder.decode)
            } catch {
                differences.append(
                    Difference(vector: "examples[\(index)]", problem: "not decoded: \(error)"))
                continue
            }
            for view in try views(of: example, image) {
                guard let problem = try await difference(of: view, within: tolerance) else {
                    continue
                }
                differences.append(
                    Difference(vector: "examples[\(index)].views.\(view.name)", problem: problem))
            }
        }
        return differences
    }

    /// An example of vectors.json in one of its views, and what Python answered.
    struct ExampleView {
        let name: String
        let example: Example
        let answer: JSON
    }

    /// Prepares an example of vectors.json, with its image, in each of its views.
    func views(of example: JSON, _ image: Picture?) throws -> [ExampleView] {
        let text = try example["text"].text()
        return try example["views"].object().sorted { $0.key < $1.key }.map { view, answer in
            let prepared = try prepare(
                image: view == Labels.View.text.rawValue ? nil : image,
                text: view == Labels.View.image.rawValue ? nil : text)
            return ExampleView(name: view, example: prepared, answer: answer)
        }
    }

    private func textDifference(_ vector: JSON) throws -> String? {
        let text = try vector["text"].text()
        let expectedWords = try vector["words"].list().map { try $0.text() }
        let words = bundle.tokenizer.words(of: text)
        // Not as strings: equivalent ones are different words.
        guard words.map({ Array($0.utf8) }) == expectedWords.map({ Array($0.utf8) }) else {
            return "words \(words) instead of \(expectedWords)"
        }
        let expected = try vector["ids"].list().map { try Int32($0.int(from: 0, to: 1 << 30)) }
        let tokens = bundle.tokenizer.encode(text)
        let ids = tokens.inputIDs.prefix(Int(tokens.attentionMask.reduce(0, +)))
        return ids.elementsEqual(expected) ? nil : "identifiers \(ids) instead of \(expected)"
    }

    private func noiseDifference(_ vector: JSON) throws -> String? {
        let expected = try vector["model_pixels"].text()
        let picture = try Picture(noise: vector)
        let digest = try SHA256.hexDigest(of: bundle.imageSpec.pixels(of: picture))
        guard digest != expected else { return nil }
        return "pixels of \(picture.width) by \(picture.height) as \(picture.layout), orientation"
            + " \(picture.orientation), with SHA-256 \(digest) instead of \(expected)"
    }

    private func difference(
        of view: ExampleView, within tolerance: Double
    ) async throws -> String? {
        let (labels, example) = (bundle.labels, view.example)
        let output = try await run(example.input)
        let found = output.probabilities
        let decided = try labels.decide(output, view: example.view).map { labels.names[$0] }
        let expected = try view.answer["probabilities"].list().map { try Float($0.probability()) }
        guard expected.count == found.count else {
            return "\(found.count) probabilities instead of \(expected.count)"
        }
        guard zip(found, expected).allSatisfy({ abs(Double($0) - Double($1)) <= tolerance }) else {
            return "probabilities \(found) instead of \(expected)"
        }
        let expectedDecided = try view.answer["decided"].list().map { try $0.text() }
        let margin = try labels.margin(expected, view: example.view)
        guard margin > tolerance, decided != expectedDecided else { return nil }
        return "decides \(decided) instead of \(expectedDecided)"
    }
}

extension Picture {
    /// Computes an image of vectors.json from its seed; grey becomes RGB.
    init(noise: JSON) throws {
        let width = try noise["width"].int(from: 1, to: 65_536)
        let height = try noise["height"].int(from: 1, to: 65_536)
        let channels = try noise["channels"].int(from: 1, to: 4)
        var value = try UInt32(noise["seed"].int(from: 0, to: Int(UInt32.max)))
        let copies = channels == 1 ? 3 : 1
        var bytes: [UInt8] = []
        bytes.reserveCapacity(width * height * channels * copies)
        for _ in 0..<width * height * channels {
            value = 1_664_525 &* value &+ 1_013_904_223
            for _ in 0..<copies { bytes.append(UInt8(value >> 24)) }
        }
        try self.init(
            width: width, height: height, bytes: bytes,
            layout: channels == 4 ? .straightRGBA : .rgb,
            orientation: noise["orientation"].int(from: 1, to: 8))
    }
}
