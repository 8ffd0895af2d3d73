import Foundation

/// How much a benchmark measures.
public struct BenchmarkPlan: Sendable {
    /// How often the views take turns, up to 100.
    public var rounds: Int
    /// The fewest samples of a view, over all rounds; a round has at most 1,000.
    public var runs: Int
    /// The least time that the samples of a view take, over all rounds, up to 3,600.
    public var seconds: Double

    public init(rounds: Int = 4, runs: Int = 200, seconds: Double = 3) {
        (self.rounds, self.runs, self.seconds) = (rounds, runs, seconds)
    }

    fileprivate func check() throws {
        guard (1...100).contains(rounds) else {
            throw BundleError(
                subject: "rounds", problem: "\(rounds) is not from 1 to 100", fix: "Pass a count")
        }
        guard runs > 0 else {
            throw BundleError(
                subject: "runs", problem: "\(runs) is not 1 or more", fix: "Pass a count")
        }
        guard (0...3600).contains(seconds) else {
            throw BundleError(
                subject: "seconds", problem: "\(seconds) is not from 0 to 3600",
                fix: "Pass an hour or less")
        }
    }
}

/// What a benchmark measured: the content of benchmark.json, which `msd bench --import` reads.
public struct BenchmarkResult: Encodable, Sendable {
    /// The device that ran it.
    public struct Device: Encodable, Equatable, Sendable {
        /// Such as "iPhone16,2".
        public let model: String
        /// Such as "iOS 26.1 (Build 23B85)".
        public let system: String
        public let cores: Int

        /// Keeps what `msd bench --import` reads: what cannot be printed becomes a blank, no text
        /// "unknown", and fewer cores than one are one.
        public init(model: String, system: String, cores: Int) {
            (self.model, self.system) = (printable(model), printable(system))
            self.cores = max(1, cores)
        }
    }

    /// What may have slowed the device down; nil: unknown.
    public struct Conditions: Encodable, Equatable, Sendable {
        /// The states of iOS by the names that all platforms share.
        public enum Thermal: String, Encodable, Sendable {
            case nominal = "none"
            case fair = "light"
            case serious = "severe"
            case critical
        }

        public let thermal: Thermal?
        public let isLowPower: Bool?

        public init(thermal: Thermal? = nil, isLowPower: Bool? = nil) {
            (self.thermal, self.isLowPower) = (thermal, isLowPower)
        }

        private enum CodingKeys: String, CodingKey {
            case thermal
            case isLowPower = "low_power"
        }
    }

    /// The image file and the text of `stagesMs`.
    public struct Photo: Encodable, Equatable, Sendable {
        /// Size of the file.
        public let bytes: Int
        /// Width of the decoded image, as it is stored.
        public let width: Int
        /// Height of the decoded image, as it is stored.
        public let height: Int
        /// Unicode scalars of the text.
        public let characters: Int
    }

    /// Milliseconds of every sample of one whole classification, by stage.
    public struct Stages: Encodable, Equatable, Sendable {
        public fileprivate(set) var decode: [Double] = []
        public fileprivate(set) var resize: [Double] = []
        public fileprivate(set) var tokenize: [Double] = []
        public fileprivate(set) var inference: [Double] = []
        public fileprivate(set) var total: [Double] = []
    }

    /// Before and after the benchmark.
    public struct ConditionsAround: Encodable, Equatable, Sendable {
        public let before, after: Conditions
    }

    /// `form` of the bundle.
    public let form: String
    public let bundleDigest: String
    public let exportDigest: String
    /// What ran the model, such as "Core ML, iOS 26.1 (Build 23B85), all compute units".
    public let runtime: String
    /// Threads of the runtime; nil: it decides itself.
    public let threads: Int?
    public let device: Device
    /// When the benchmark began, in ISO 8601.
    public let measuredUTC: String
    /// To read, verify and open the bundle; nil: unknown. The first start also compiles the model.
    public let loadMs: Double?
    /// Of the first inference since then.
    public let firstMs: Double?
    /// The smallest step of the clock.
    public let clockStepMs: Double
    /// Of the inference alone: every sample, a list for each round, by view.
    public let latencyMs: [Labels.View: [[Double]]]
    public let photo: Photo
    public let stagesMs: Stages
    public let conditions: ConditionsAround

    private enum CodingKeys: String, CodingKey {
        case schemaVersion = "schema_version"
        case kind, platform, form
        case bundleDigest = "bundle_digest"
        case exportDigest = "export_digest"
        case runtime, threads, device
        case measuredUTC = "measured_utc"
        case loadMs = "load_ms"
        case firstMs = "first_ms"
        case clockStepMs = "clock_step_ms"
        case latencyMs = "latency_ms"
        case photo
        case stagesMs = "stages_ms"
        case conditions
    }

    public func encode(to encoder: any Encoder) throws {
        var json = encoder.container(keyedBy: CodingKeys.self)
        try json.encode(1, forKey: .schemaVersion)
        try json.encode("app_benchmark", forKey: .kind)
        try json.encode("ios", forKey: .platform)
        try json.encode(form, forKey: .form)
        try json.encode(bundleDigest, forKey: .bundleDigest)
        try json.encode(exportDigest, forKey: .exportDigest)
        try json.encode(runtime, forKey: .runtime)
        // nil becomes null: no key is ever missing.
        try json.encode(threads, forKey: .threads)
        try json.encode(device, forKey: .device)
        try json.encode(measuredUTC, forKey: .measuredUTC)
        try json.encode(loadMs, forKey: .loadMs)
        try json.encode(firstMs, forKey: .firstMs)
        try json.encode(clockStepMs, forKey: .clockStepMs)
        try json.encode(latencyMs, forKey: .latencyMs)
        try json.encode(photo, forKey: .photo)
        try json.encode(stagesMs, forKey: .stagesMs)
        try json.encode(conditions, forKey: .conditions)
    }

    /// Returns the content of benchmark.json.
    public func jsonData() throws -> Data {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return try encoder.encode(self)
    }
}

extension Labels.View: Encodable, CodingKeyRepresentable {}

extension MultimodalClassifier {
    /// Measures the latency of each view, and of one whole classification by stages.
    ///
    /// As planned by default, takes about 10 seconds, 1 to 2 for a tiny model, and longer from some
    /// 15 ms an inference. Call nothing else in the meantime. In a debug build, decoding and
    /// resizing are many times slower.
    ///
    /// - Parameters:
    ///   - photo: The content of an image file for the stages; nil: the first one of vectors.json.
    ///   - text: The text for the stages; nil: that of the same example.
    ///   - plan: How much is measured.
    ///   - decoder: Reads the photo, and the PNG files of vectors.json.
    ///   - device: Is stated in the result.
    ///   - conditions: Returns the state of the device; called before and after.
    /// - Throws: `BundleError` if the plan is invalid, a file cannot be read or a view has no
    ///   example; `CancellationError` if the task was cancelled; what runtime and decoder throw.
    public func benchmark(
        photo: Data? = nil, text: String? = nil, plan: BenchmarkPlan = BenchmarkPlan(),
        decoder: any ImageDecoder, device: BenchmarkResult.Device,
        conditions: @Sendable () -> BenchmarkResult.Conditions
    ) async throws -> BenchmarkResult {
        try plan.check()
        let (start, before) = (Date.now, conditions())
        let examples = try JSON(bundle.read("vectors.json"), file: "vectors.json")["examples"]
        let usual = try usualExample(examples)
        let (photo, text) = (photo ?? usual.photo, text ?? usual.text)
        let stated = try describe(photo, text, decoder)
        let latencies = try await latencies(inputs(of: examples, decoder), plan)
        let stages = try await stages(photo: photo, text: text, decoder)
        return BenchmarkResult(
            form: bundle.form, bundleDigest: bundle.digest, exportDigest: bundle.exportDigest,
            runtime: printable(runtime.name), threads: runtime.threads, device: device,
            measuredUTC: start.formatted(.iso8601), loadMs: loadTime.map { milliseconds($0) },
            firstMs: firstInferenceTime.map { milliseconds($0) }, clockStepMs: clockStep(),
            latencyMs: latencies, photo: stated, stagesMs: stages,
            conditions: .init(before: before, after: conditions()))
    }

    /// Returns image file and text of the first example that has an image.
    private func usualExample(_ examples: JSON) throws -> (photo: Data, text: String) {
        for example in try examples.list() {
            guard let name = try example["image"].textOrNull() else { continue }
            return try (bundle.read(name), example["text"].text())
        }
        throw examples.error("has no example with an image")
    }

    private func describe(
        _ photo: Data, _ text: String, _ decoder: any ImageDecoder
    ) throws -> BenchmarkResult.Photo {
        let picture = try decoder.decode(photo)
        return .init(
            bytes: photo.count, width: picture.width, height: picture.height,
            characters: text.unicodeScalars.count)
    }

    /// Returns the model's inputs of all examples, by view.
    private func inputs(
        of examples: JSON, _ decoder: any ImageDecoder
    ) throws -> [Labels.View: Turns] {
        let prepared = try examples.list().flatMap { example in
            let file = try example["image"].textOrNull().map(bundle.read)
            return try views(of: example, file.map(decoder.decode)).map(\.example)
        }
        let inputs = Dictionary(grouping: prepared, by: \.view)
        return try Dictionary(
            uniqueKeysWithValues: Labels.View.allCases.map { view in
                guard let found = inputs[view] else {
                    throw examples.error("has no example of the view \(view)")
                }
                return (view, Turns(inputs: found.map(\.input)))
            })
    }

    /// Measures inference alone: in rounds, the views in turn, every other round backwards.
    private func latencies(
        _ inputs: [Labels.View: Turns], _ plan: BenchmarkPlan
    ) async throws -> [Labels.View: [[Double]]] {
        var latencies: [Labels.View: [[Double]]] = [:]
        for round in 0..<plan.rounds {
            let views = Labels.View.allCases
            let order = round.isMultiple(of: 2) ? views : views.reversed()
            for view in order {
                try Task.checkCancellation()
                guard let turns = inputs[view] else { continue }
                try await warmUp(turns, for: view == order[0] ? .milliseconds(250) : .zero)
                try await latencies[view, default: []].append(samples(turns, plan))
            }
        }
        return latencies
    }

    /// A processor that has idled takes a while to reach its speed.
    private func warmUp(_ inputs: Turns, for time: Duration) async throws {
        let start = now()
        var calls = 0
        while calls < 10 || now() - start < time {
            _ = try await run(inputs.next())
            calls += 1
        }
    }

    /// Returns the milliseconds of calls of one round.
    private func samples(_ inputs: Turns, _ plan: BenchmarkPlan) async throws -> [Double] {
        let fewest = (plan.runs - 1) / plan.rounds + 1
        let least = Duration.seconds(plan.seconds / Double(plan.rounds))
        let begin = now()
        var samples: [Double] = []
        while samples.count < 1000, samples.count < fewest || now() - begin < least {
            let input = inputs.next()
            let start = now()
            _ = try await run(input)
            samples.append(milliseconds(now() - start))
        }
        return samples
    }

    /// Measures whole classifications: 20 after 3 that warm up.
    private func stages(
        photo: Data, text: String, _ decoder: any ImageDecoder
    ) async throws -> BenchmarkResult.Stages {
        var stages = BenchmarkResult.Stages()
        for sample in -3..<20 {
            let start = now()
            let picture = try decoder.decode(photo)
            let decoded = now()
            let pixels = try bundle.imageSpec.pixels(of: picture)
            let resized = now()
            let tokens = bundle.tokenizer.encode(text)
            let tokenized = now()
            _ = try await run(
                ModelInput(
                    pixels: pixels, imagePresent: 1, inputIDs: tokens.inputIDs,
                    attentionMask: tokens.attentionMask))
            let end = now()
            guard sample >= 0 else { continue }
            stages.decode.append(milliseconds(decoded - start))
            stages.resize.append(milliseconds(resized - decoded))
            stages.tokenize.append(milliseconds(tokenized - resized))
            stages.inference.append(milliseconds(end - tokenized))
            stages.total.append(milliseconds(end - start))
        }
        return stages
    }

    /// Returns the smallest step of the clock in milliseconds, rounded up: it is never 0.
    private func clockStep() -> Double {
        let begin = now()
        var (last, step) = (begin, Duration.seconds(1))
        while last - begin < .milliseconds(20) {
            let next = now()
            if next > last { step = min(step, next - last) }
            last = next
        }
        return milliseconds(step, .up)
    }
}

/// The model's inputs of some examples, one after the other, again and again.
private final class Turns {
    private let inputs: [ModelInput]
    private var count = 0

    init(inputs: [ModelInput]) {
        self.inputs = inputs
    }

    func next() -> ModelInput {
        defer { count += 1 }
        return inputs[count % inputs.count]
    }
}

/// Returns a time in milliseconds with 4 decimals.
func milliseconds(
    _ time: Duration, _ rule: FloatingPointRoundingRule = .toNearestOrAwayFromZero
) -> Double {
    (time / .milliseconds(1) * 10_000).rounded(rule) / 10_000
}

/// Returns what can be printed of a text, 1 to 500 characters, as `msd bench --import` reads it.
private func printable(_ text: String) -> String {
    let words = text.unicodeScalars.split { scalar in
        switch scalar.properties.generalCategory {
        case .control, .format, .surrogate, .privateUse, .unassigned, .spaceSeparator,
            .lineSeparator, .paragraphSeparator:
            true
        default: false
        }
    }
    let joined = words.map { String($0) }.joined(separator: " ").unicodeScalars.prefix(500)
    return joined.isEmpty ? "unknown" : String(joined)
}
