import Foundation

/// The model's inputs of one example ("The model's inputs" in docs/preprocessing.md).
public struct ModelInput: Equatable, Sendable {
    /// Rows of red, green and blue, height by width of `ImageSpec`; zeros where no image is given.
    public let pixels: [UInt8]
    /// Whether an image is given: 0 or 1.
    public let imagePresent: Int32
    public let inputIDs: [Int32]
    public let attentionMask: [Int32]
}

/// The model's outputs of one example, in the order of labels.json.
public struct ModelOutput: Equatable, Sendable {
    public let logits: [Float]
    public let probabilities: [Float]

    public init(logits: [Float], probabilities: [Float]) {
        (self.logits, self.probabilities) = (logits, probabilities)
    }
}

/// Runs the model of a bundle.
public protocol Runtime: Sendable {
    /// What runs the model, with the version and where, such as "Core ML, iOS 26.1, CPU".
    var name: String { get }
    /// The threads that it uses; nil: it decides itself.
    var threads: Int? { get }

    func run(_ input: ModelInput) async throws -> ModelOutput
}

/// The answer to one example.
public struct Classification: Equatable, Sendable {
    public struct Label: Equatable, Sendable {
        public let name: String
        /// From 0 to 1.
        public let probability: Float
    }

    /// The most probable classes, the one with the largest logit first.
    public let labels: [Label]
    /// The modalities that were given.
    public let view: Labels.View
    /// The classes that are decided; none is an abstention.
    public let decided: [String]
    /// Whether the end of the text was left out since it is too long for the model.
    public let isTextCut: Bool
}

/// Classifies an image, a text, or both. Safe from any task; images are prepared one at a time.
public actor MultimodalClassifier {
    public nonisolated let bundle: ModelBundle
    let runtime: any Runtime
    /// Time since some moment.
    let now: @Sendable () -> Duration
    let loadTime: Duration?
    private(set) var firstInferenceTime: Duration?

    /// - Parameters:
    ///   - bundle: The labels, and how images and texts are prepared.
    ///   - runtime: Runs the model of the bundle.
    ///   - loadTime: How long both took to load, for `benchmark`; nil: unknown.
    /// - Throws: `BundleError` if `loadTime` is negative.
    public init(_ bundle: ModelBundle, runtime: any Runtime, loadTime: Duration? = nil) throws {
        let start = ContinuousClock.now
        try self.init(bundle, runtime: runtime, loadTime: loadTime) { start.duration(to: .now) }
    }

    /// - Parameter now: Returns the time since some moment.
    init(
        _ bundle: ModelBundle, runtime: any Runtime, loadTime: Duration? = nil,
        now: @escaping @Sendable () -> Duration
    ) throws {
        if let loadTime, loadTime < .zero {
            throw BundleError(
                subject: "loadTime", problem: "\(loadTime) is negative",
                fix: "Pass a duration from 0, or nil")
        }
        (self.bundle, self.runtime) = (bundle, runtime)
        (self.loadTime, self.now) = (loadTime, now)
    }

    /// Classifies one example.
    ///
    /// - Parameters:
    ///   - image: nil: no image.
    ///   - text: nil, empty or white space: no text.
    ///   - topK: The most labels to return, 1 or more.
    ///   - threshold: From 0 to 1, replaces the thresholds of the operating point.
    /// - Throws: `BundleError` if neither an image nor a text is given, or a value is out of
    ///   range; what the runtime throws.
    public func classify(
        image: Picture?, text: String?, topK: Int = 5, threshold: Double? = nil
    ) async throws -> Classification {
        guard topK >= 1 else {
            throw BundleError(
                subject: "topK", problem: "\(topK) is not 1 or more", fix: "Pass a count of labels")
        }
        let example = try prepare(image: image, text: text)
        let output = try await run(example.input)
        let labels = bundle.labels
        let decided = try labels.decide(output, view: example.view, threshold: threshold)
        return Classification(
            labels: labels.ranked(output).prefix(topK).map {
                .init(name: labels.names[$0], probability: output.probabilities[$0])
            },
            view: example.view, decided: decided.map { labels.names[$0] },
            isTextCut: example.isTextCut)
    }

    /// Runs the model, and measures how long the first time takes.
    func run(_ input: ModelInput) async throws -> ModelOutput {
        guard firstInferenceTime == nil else { return try await runtime.run(input) }
        let start = now()
        let output = try await runtime.run(input)
        firstInferenceTime = firstInferenceTime ?? now() - start
        return output
    }

    /// The model's inputs, and what they are of.
    struct Example {
        let input: ModelInput
        let view: Labels.View
        let isTextCut: Bool
    }

    func prepare(image: Picture?, text: String?) throws -> Example {
        let text = text ?? ""
        let (tokenizer, imageSpec) = (bundle.tokenizer, bundle.imageSpec)
        let hasText = !tokenizer.isAbsent(text)
        guard image != nil || hasText else {
            throw BundleError(
                subject: "example", problem: "has neither an image nor a text",
                fix: "Pass an image, a text that is not blank, or both")
        }
        let tokens = tokenizer.encode(text)
        let pixels = try image.map(imageSpec.pixels)
        let input = ModelInput(
            pixels: pixels ?? Array(repeating: 0, count: imageSpec.height * imageSpec.width * 3),
            imagePresent: pixels == nil ? 0 : 1, inputIDs: tokens.inputIDs,
            attentionMask: tokens.attentionMask)
        return Example(
            input: input, view: pixels == nil ? .text : hasText ? .multimodal : .image,
            isTextCut: tokens.isCut)
    }
}
