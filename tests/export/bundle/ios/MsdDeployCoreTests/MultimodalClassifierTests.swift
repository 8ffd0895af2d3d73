import Foundation
import Testing

@testable import MsdDeployCore

/// Answers in a given order, and keeps what it was asked.
private actor ReplayedRuntime: Runtime {
    nonisolated let name = "replay"
    nonisolated let threads: Int? = nil
    private(set) var inputs: [ModelInput] = []
    private let answers: [ModelOutput]

    init(_ answers: [ModelOutput]) {
        self.answers = answers
    }

    /// Answers with probabilities, which are logits as well.
    init(_ answers: [[Float]]) {
        self.init(answers.map { ModelOutput(logits: $0, probabilities: $0) })
    }

    func run(_ input: ModelInput) throws -> ModelOutput {
        inputs.append(input)
        return answers[inputs.count - 1]
    }
}

/// Decodes every file to a black image.
private struct BlackImages: ImageDecoder {
    func decode(_ file: Data) throws -> Picture {
        try Picture(width: 2, height: 2, bytes: [UInt8](repeating: 0, count: 12))
    }
}

/// Decodes every file to a black image, but for the second one.
private final class AllButOneImage: ImageDecoder, @unchecked Sendable {
    private var count = 0

    func decode(_ file: Data) throws -> Picture {
        count += 1
        guard count != 2 else { throw CocoaError(.fileReadCorruptFile) }
        return try BlackImages().decode(file)
    }
}

private func classifier(
    _ runtime: any Runtime, labels: String = #"["x", "y"]"#
) throws -> MultimodalClassifier {
    try MultimodalClassifier(
        ModelBundle(labels: changed(Spec.labels(), "labels", to: labels)), runtime: runtime)
}

@Test func theViewIsThatOfTheModalitiesThatAreGiven() async throws {
    let runtime = ReplayedRuntime([[0.25, 0.75], [1, 0], [0.5, 0.5]])
    let classifier = try classifier(runtime)
    let black = try BlackImages().decode(Data())
    let both = try await classifier.classify(image: black, text: "Look!")
    #expect(both.view == .multimodal)
    #expect(both.labels.map(\.name) == ["y", "x"])
    #expect(both.labels.map(\.probability) == [0.75, 0.25])
    #expect(both.decided == ["y"])
    #expect(try await classifier.classify(image: black, text: "\u{3000}").view == .image)
    #expect(try await classifier.classify(image: nil, text: "Look!").view == .text)
    #expect(await runtime.inputs.map(\.imagePresent) == [1, 1, 0])
    #expect(await runtime.inputs[1].attentionMask == [1] + [Int32](repeating: 0, count: 15))
    #expect(await runtime.inputs[0].pixels == runtime.inputs[1].pixels)
    #expect(await runtime.inputs[2].pixels == [UInt8](repeating: 0, count: 48 * 48 * 3))
}

@Test func anExampleOfNothingIsRefused() async throws {
    let classifier = try classifier(ReplayedRuntime([[Float]]()))
    for text in [nil, "", " \n\u{1F}\u{3000}"] {
        let found = await message { try await classifier.classify(image: nil, text: text) }
        #expect(found?.hasPrefix("example: has neither an image nor a text.") == true)
    }
}

@Test func theMostProbableLabelsComeFirst() async throws {
    let runtime = ReplayedRuntime([[0.1, 0.3, 0.3, 0.3], [0.1, 0.3, 0.3, 0.3]])
    let classifier = try classifier(runtime, labels: #"["a", "b", "c", "d"]"#)
    let found = try await classifier.classify(image: nil, text: "a", topK: 2, threshold: 0.5)
    #expect(found.labels.map(\.name) == ["b", "c"])
    #expect(found.decided == [])
    #expect(try await classifier.classify(image: nil, text: "a").labels.count == 4)
    await #expect(throws: BundleError.self) {
        try await classifier.classify(image: nil, text: "a", topK: 0)
    }
}

@Test func theLargestLogitComesFirst() async throws {
    let output = ModelOutput(logits: [17, 19, 20, 19], probabilities: [0.5, 1, 1, 1])
    let classifier = try classifier(
        ReplayedRuntime([output]), labels: #"["a", "b", "c", "d"]"#)
    let found = try await classifier.classify(image: nil, text: "a")
    #expect(found.labels.map(\.name) == ["c", "b", "d", "a"])
    #expect(found.decided == ["c"])
}

@Test func aTextThatIsTooLongIsReported() async throws {
    let classifier = try classifier(ReplayedRuntime([[1, 0], [1, 0]]))
    let text = String(repeating: "a ", count: 15)
    #expect(try await classifier.classify(image: nil, text: text).isTextCut)
    #expect(try await !classifier.classify(image: nil, text: "a").isTextCut)
}

private let names = #"["benign", "hateful"]"#

private func statedAnswers() throws -> [[Float]] {
    try Spec.json("vectors.json")["examples"].list().flatMap { example in
        try example["views"].object().sorted { $0.key < $1.key }.map { _, answer in
            try answer["probabilities"].list().map { try Float($0.probability()) }
        }
    }
}

@Test func theSelfTestPassesWithTheStatedAnswers() async throws {
    let runtime = try ReplayedRuntime(statedAnswers())
    let classifier = try classifier(runtime, labels: names)
    #expect(try await classifier.selfTest(vectors: Spec.vectors, decoder: BlackImages()) == [])
    #expect(await runtime.inputs.count == 300)
    #expect(await runtime.inputs[..<3].map(\.imagePresent) == [1, 1, 0])
    #expect(await runtime.inputs[..<3].map { $0.attentionMask[1] } == [0, 1, 1])
}

@Test func theSelfTestReportsEveryDifference() async throws {
    var answers = try statedAnswers()
    answers[1] = [0.5, 0.5]
    let other = try changed(Spec.labels(), "labels", to: #"["benign", "bad"]"#)
    let text = try changed(Spec.text(), "start_id", to: "4")
    let preprocess = try changed(Spec.preprocess(), "image.mode", to: #""crop""#)
    let classifier = try MultimodalClassifier(
        ModelBundle(text: text, preprocess: preprocess, labels: other),
        runtime: ReplayedRuntime(answers))
    let found = try await classifier.selfTest(vectors: Spec.vectors, decoder: BlackImages())
    let vectors = Set(found.map(\.vector))
    #expect(!vectors.contains("texts[0]"))
    #expect(vectors.contains("texts[1]"))
    #expect(!vectors.contains("noise[0]"))
    #expect(vectors.contains("noise[2]"))
    let messages = found.map(\.description)
    #expect(
        messages.contains {
            $0.hasPrefix(
                "examples[0].views.multimodal: probabilities [0.5, 0.5] instead of [0.0531")
        })
    #expect(
        messages.contains(
            #"examples[0].views.image: decides ["bad"] instead of ["hateful"]"#))
}

@Test func theSelfTestReportsAnImageThatIsNotDecoded() async throws {
    var answers = try statedAnswers()
    answers.removeSubrange(3..<6)
    let classifier = try classifier(ReplayedRuntime(answers), labels: names)
    let found = try await classifier.selfTest(vectors: Spec.vectors, decoder: AllButOneImage())
    #expect(found.map(\.vector) == ["examples[1]"])
    #expect(found.first?.problem.hasPrefix("not decoded: ") == true)
}

@Test func theSelfTestOfABundleReadsOnlyWhatIsListedAndUnaltered() async throws {
    let runtime = ReplayedRuntime([[Float]]())
    try await withVectors("tolerance", "0.5") { folder in
        let bundle = try ModelBundle(vectors: folder, files: ["vectors.json"])
        let classifier = try MultimodalClassifier(bundle, runtime: runtime)
        let unlisted = await message { try await classifier.selfTest(decoder: BlackImages()) }
        #expect(unlisted?.hasPrefix("examples/000.png: is not in manifest.json.") == true)

        let url = folder.appendingPathComponent("vectors.json")
        try (Data(contentsOf: url) + Data(" ".utf8)).write(to: url)
        let altered = await message { try await classifier.selfTest(decoder: BlackImages()) }
        #expect(altered?.hasPrefix("vectors.json: is damaged: its SHA-256") == true)
    }
    let nothing = try MultimodalClassifier(ModelBundle(), runtime: runtime)
    let found = await message { try await nothing.selfTest(decoder: BlackImages()) }
    #expect(found?.hasPrefix("vectors.json: is not in manifest.json.") == true)
}

@Test(arguments: ["texts", "noise", "examples"])
func vectorsThatTestNothingAreRefused(key: String) async throws {
    let classifier = try classifier(ReplayedRuntime(statedAnswers()), labels: names)
    try await withVectors(key, "[]") { folder in
        let found = await message {
            try await classifier.selfTest(vectors: folder, decoder: BlackImages())
        }
        #expect(found?.hasPrefix("vectors.json: \(key) is empty.") == true)
    }
}

/// Moves two probabilities by as much towards each other.
private func moved(_ probabilities: [Float], by change: Float) -> [Float] {
    let step = probabilities[0] < probabilities[1] ? change : -change
    return [probabilities[0] + step, probabilities[1] - step]
}

@Test(arguments: [("0.01", 0.002, 0), ("0.01", 0.02, 300), ("0.0001", 0.0002, 300)])
func theToleranceIsThatOfTheVectors(tolerance: String, change: Float, count: Int) async throws {
    let answers = try statedAnswers().map { moved($0, by: change) }
    try await withVectors("tolerance", tolerance) { folder in
        let classifier = try classifier(ReplayedRuntime(answers), labels: names)
        let found = try await classifier.selfTest(vectors: folder, decoder: BlackImages())
        #expect(found.count == count)
    }
}

@Test func theToleranceMayBeAnother() async throws {
    let answers = try statedAnswers().map { moved($0, by: 0.002) }
    let classifier = try classifier(ReplayedRuntime(answers), labels: names)
    let found = try await classifier.selfTest(
        vectors: Spec.vectors, tolerance: 0.01, decoder: BlackImages())
    #expect(found == [])
}

@Test(arguments: [(Float(0.0009), 0), (0.0011, 300)])
func theToleranceIsAThousandthWithoutAStatedOne(change: Float, count: Int) async throws {
    let answers = try statedAnswers().map { moved($0, by: change) }
    let classifier = try classifier(ReplayedRuntime(answers), labels: names)
    let found = try await classifier.selfTest(vectors: Spec.vectors, decoder: BlackImages())
    #expect(found.count == count)
}

@Test func theSelfTestComparesWordsByTheirScalars() async throws {
    // In one scalar and in two: equal strings, but other words.
    let texts = #"[{"text": "e\u0301", "words": ["\u00e9"], "ids": [2, 3]}]"#
    var text = try Spec.text()
    for key in ["removed", "replaced"] { text = try changed(text, key, to: "[]") }
    let classifier = try MultimodalClassifier(
        ModelBundle(text: text), runtime: ReplayedRuntime(statedAnswers()))
    try await withVectors("texts", texts) { folder in
        let found = try await classifier.selfTest(vectors: folder, decoder: BlackImages())
        #expect(found.map(\.vector) == ["texts[0]"])
        #expect(found.first?.problem.hasPrefix("words [") == true)
    }
}
