import Foundation
import Testing

@testable import MsdDeployCore

/// A clock that stands still, but for a microsecond at each reading and for what takes time.
private final class SlowClock: @unchecked Sendable {
    private let lock = NSLock()
    private var time = Duration.seconds(5)

    func now() -> Duration {
        take(.microseconds(1))
    }

    @discardableResult
    func take(_ duration: Duration) -> Duration {
        lock.withLock {
            time += duration
            return time
        }
    }
}

/// Takes as long as it is told, and keeps what it was asked.
private actor SlowRuntime: Runtime {
    nonisolated let name = "slow"
    nonisolated let threads: Int? = 2
    private let clock: SlowClock
    private let duration: Duration
    private(set) var inputs: [ModelInput] = []

    init(_ clock: SlowClock, _ duration: Duration) {
        (self.clock, self.duration) = (clock, duration)
    }

    func run(_ input: ModelInput) -> ModelOutput {
        inputs.append(input)
        clock.take(duration)
        return ModelOutput(logits: [0, 1], probabilities: [0.25, 0.75])
    }

    /// How many calls one after the other had the same view.
    var views: [String] {
        var runs: [(view: Labels.View, count: Int)] = []
        for input in inputs {
            let isImage = input.attentionMask.reduce(0, +) == 1
            let view: Labels.View = input.imagePresent == 0 ? .text : isImage ? .image : .multimodal
            if runs.last?.view == view {
                runs[runs.count - 1].count += 1
            } else {
                runs.append((view, 1))
            }
        }
        return runs.map { "\($0.count) \($0.view)" }
    }
}

/// Decodes every file to an image of a colour of its own, in 80 milliseconds.
private struct SlowImages: ImageDecoder {
    let clock: SlowClock

    func decode(_ file: Data) throws -> Picture {
        clock.take(.milliseconds(80))
        let colour = file.reduce(0, &+)
        return try Picture(width: 2, height: 3, bytes: [UInt8](repeating: colour, count: 18))
    }
}

private let device = BenchmarkResult.Device(model: "Linux", system: "Debian", cores: 2)

/// A classifier whose runtime takes as long as it is told.
private struct Slow {
    let clock = SlowClock()
    let runtime: SlowRuntime
    let classifier: MultimodalClassifier

    init(
        _ inference: Duration, loadTime: Duration? = nil, bundle: ModelBundle? = nil
    ) throws {
        let clock = clock
        runtime = SlowRuntime(clock, inference)
        classifier = try MultimodalClassifier(
            bundle ?? ModelBundle(folder: Spec.bundle), runtime: runtime, loadTime: loadTime
        ) { clock.now() }
    }

    func benchmark(
        photo: Data? = nil, text: String? = nil, _ plan: BenchmarkPlan
    ) async throws -> BenchmarkResult {
        let clock = clock
        return try await classifier.benchmark(
            photo: photo, text: text, plan: plan, decoder: SlowImages(clock: clock), device: device
        ) {
            clock.now() < .seconds(6)
                ? .init(thermal: .nominal, isLowPower: false) : .init(thermal: .fair)
        }
    }
}

@Test func theViewsTakeTurnsAndEveryOtherRoundIsBackwards() async throws {
    let slow = try Slow(.milliseconds(20))
    let result = try await slow.benchmark(BenchmarkPlan(rounds: 3, runs: 7, seconds: 0))
    // 3 samples, after 13 calls of warm-up, which are 0.25 seconds, or 10; at last the stages.
    #expect(
        await slow.runtime.views == [
            "16 multimodal", "13 image", "29 text", "13 image", "29 multimodal", "13 image",
            "13 text", "23 multimodal",
        ])
    for view in Labels.View.allCases {
        let round = [Double](repeating: 20.001, count: 3)
        #expect(result.latencyMs[view] == [round, round, round])
    }
}

@Test func everyCallTakesTheNextExample() async throws {
    let slow = try Slow(.milliseconds(20))
    _ = try await slow.benchmark(BenchmarkPlan(rounds: 3, runs: 7, seconds: 0))
    let inputs = await slow.runtime.inputs.filter { $0.imagePresent == 0 }
    #expect(Set(inputs.map(\.inputIDs)).count == 10)
    #expect(inputs.count == 42)
    #expect(inputs[10...].elementsEqual(inputs[..<32]))
}

@Test(arguments: [
    (Duration.milliseconds(100), BenchmarkPlan(rounds: 2, runs: 2, seconds: 1), [5, 5]),
    (.milliseconds(100), BenchmarkPlan(rounds: 2, runs: 21, seconds: 1), [11, 11]),
    (.microseconds(100), BenchmarkPlan(rounds: 1, runs: 1001, seconds: 0), [1000]),
    (.microseconds(100), BenchmarkPlan(rounds: 2, runs: .max, seconds: 3600), [1000, 1000]),
])
func aRoundHasItsShareOfRunsAndSecondsOrAThousandSamples(
    inference: Duration, plan: BenchmarkPlan, counts: [Int]
) async throws {
    let result = try await Slow(inference).benchmark(plan)
    for view in Labels.View.allCases {
        #expect(result.latencyMs[view]?.map(\.count) == counts)
    }
}

@Test func theStagesAreThoseOfThePhotoAndTheText() async throws {
    let slow = try Slow(.milliseconds(7))
    let plan = BenchmarkPlan(rounds: 1, runs: 1, seconds: 0)
    let result = try await slow.benchmark(
        photo: Data([1, 2, 3]), text: "e\u{301}\u{1F600}", plan)
    #expect(result.photo == .init(bytes: 3, width: 2, height: 3, characters: 3))
    let stages = result.stagesMs
    #expect(stages.decode == [Double](repeating: 80.001, count: 20))
    #expect(stages.resize == [Double](repeating: 0.001, count: 20))
    #expect(stages.tokenize == [Double](repeating: 0.001, count: 20))
    #expect(stages.inference == [Double](repeating: 7.001, count: 20))
    #expect(stages.total == [Double](repeating: 87.004, count: 20))
    let input = try #require(await slow.runtime.inputs.last)
    #expect(Set(input.pixels) == [6, 255])
    #expect(input.inputIDs == slow.classifier.bundle.tokenizer.encode("e\u{301}\u{1F600}").inputIDs)
}

@Test func theStagesAreThoseOfTheFirstImageWithoutAPhoto() async throws {
    let plan = BenchmarkPlan(rounds: 1, runs: 1, seconds: 0)
    let result = try await Slow(.milliseconds(7)).benchmark(plan)
    let file = try readFile("examples/000.png", in: Spec.bundle)
    let vectors = try JSON(readFile("vectors.json", in: Spec.bundle), file: "vectors.json")
    let example = try vectors["examples"].list()[0]
    let text = try example["text"].text()
    #expect(
        result.photo
            == .init(bytes: file.count, width: 2, height: 3, characters: text.unicodeScalars.count))
}

@Test func theFirstInferenceIsMeasuredWhoeverAsksForIt() async throws {
    let slow = try Slow(.milliseconds(7), loadTime: .seconds(2))
    _ = try await slow.classifier.classify(image: nil, text: "a")
    slow.clock.take(.seconds(1))
    let result = try await slow.benchmark(BenchmarkPlan(rounds: 1, runs: 1, seconds: 0))
    #expect(result.firstMs == 7.001)
    #expect(result.loadMs == 2000)
    #expect(result.clockStepMs == 0.001)
    #expect(result.conditions.before == .init(thermal: .fair))
}

/// The keys of a JSON value and of what it holds, such as `device.model`.
private func keys(_ json: Any, under path: String = "") -> Set<String> {
    guard let object = json as? [String: Any] else { return [] }
    return object.reduce(into: []) { found, entry in
        found.insert(path + entry.key)
        found.formUnion(keys(entry.value, under: "\(path)\(entry.key)."))
    }
}

@Test func theJSONHasEveryKeyAndOfConditionsTheKnownOnes() async throws {
    let slow = try Slow(.microseconds(1234))
    let result = try await slow.benchmark(BenchmarkPlan(rounds: 2, runs: 20, seconds: 0))
    let content = try result.jsonData()
    // The tests in Python read it.
    try content.write(to: Spec.folder.appendingPathComponent("benchmark.json"))
    let json = try #require(JSONSerialization.jsonObject(with: content) as? [String: Any])
    #expect(
        keys(json) == [
            "schema_version", "kind", "platform", "form", "bundle_digest", "export_digest",
            "runtime", "threads", "device", "device.model", "device.system", "device.cores",
            "measured_utc", "load_ms", "first_ms", "clock_step_ms", "latency_ms",
            "latency_ms.multimodal", "latency_ms.image", "latency_ms.text", "photo", "photo.bytes",
            "photo.width", "photo.height", "photo.characters", "stages_ms", "stages_ms.decode",
            "stages_ms.resize", "stages_ms.tokenize", "stages_ms.inference", "stages_ms.total",
            "conditions", "conditions.before", "conditions.before.thermal",
            "conditions.before.low_power", "conditions.after", "conditions.after.thermal",
        ])
    #expect(json["load_ms"] is NSNull)
    #expect(json["threads"] as? Int == 2)
    let bundle = slow.classifier.bundle
    #expect(json["bundle_digest"] as? String == bundle.digest)
    #expect(json["export_digest"] as? String == bundle.exportDigest)
    let text = String(decoding: content, as: UTF8.self)
    #expect(text.contains(#""first_ms":1.235,"form":"coreml-fp16","kind":"app_benchmark""#))
    #expect(text.contains(#""before":{"low_power":false,"thermal":"none"}"#))
    let start = try #require(json["measured_utc"] as? String)
    #expect(start.wholeMatch(of: /\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ/) != nil)
}

@Test func aTimeIsRoundedToFourDecimalsAndTheStepOfTheClockUpwards() {
    #expect(milliseconds(.nanoseconds(1_234_549)) == 1.2345)
    #expect(milliseconds(.nanoseconds(1_234_550)) == 1.2346)
    #expect(milliseconds(.nanoseconds(41), .up) == 0.0001)
}

@Test(arguments: [
    (BenchmarkPlan(rounds: 0), "rounds: 0 is not from 1 to 100"),
    (BenchmarkPlan(rounds: 101), "rounds: 101 is not from 1 to 100"),
    (BenchmarkPlan(runs: -1), "runs: -1 is not 1 or more"),
    (BenchmarkPlan(seconds: -0.5), "seconds: -0.5 is not from 0 to 3600"),
    (BenchmarkPlan(seconds: .infinity), "seconds: inf is not from 0"),
    (BenchmarkPlan(seconds: .nan), "seconds: nan is not from 0"),
])
func aPlanThatMeasuresNothingIsRefused(plan: BenchmarkPlan, expected: String) async throws {
    let slow = try Slow(.zero)
    let found = await message { try await slow.benchmark(plan) }
    #expect(found?.hasPrefix(expected) == true, "\(found ?? "no error")")
}

@Test(arguments: [
    (#"[{"image": null, "text": "a", "views": {"text": {}}}]"#, "with an image"),
    (#"[{"image": "examples/000.png", "text": "", "views": {"image": {}}}]"#, "of the view multi"),
])
func examplesWithoutAViewAreRefused(examples: String, missing: String) async throws {
    try await withVectors("examples", examples) { folder in
        let slow = try Slow(
            .zero,
            bundle: ModelBundle(vectors: folder, files: ["vectors.json", "examples/000.png"]))
        let found = await message { try await slow.benchmark(BenchmarkPlan()) }
        #expect(found?.hasPrefix("vectors.json: examples has no example") == true)
        #expect(found?.contains(missing) == true)
    }
}

@Test func aBenchmarkReadsNothingThatIsNotListed() async throws {
    let slow = try Slow(.zero, bundle: ModelBundle(files: ["vectors.json"]))
    let found = await message { try await slow.benchmark(BenchmarkPlan()) }
    #expect(found?.hasPrefix("examples/000.png: is not in manifest.json.") == true)
}

@Test func aNegativeLoadTimeIsRefused() throws {
    let found = message { try Slow(.zero, loadTime: .milliseconds(-1)) }
    #expect(found?.hasPrefix("loadTime: ") == true)
    #expect(found?.contains("is negative. Pass a duration from 0, or nil.") == true)
    #expect(message { try Slow(.zero, loadTime: .zero) } == nil)
}

@Test(arguments: [
    ("iPhone16,2", "iPhone16,2"), ("", "unknown"), (" \n\u{7F}\u{200B}", "unknown"),
    ("\u{1B}[31mPixel\u{202E}  8\r\n", "[31mPixel 8"), ("\u{E000}a\u{2028}é😀", "a é😀"),
])
func ofADeviceIsKeptWhatCanBePrinted(name: String, expected: String) {
    let device = BenchmarkResult.Device(model: name, system: name, cores: 0)
    #expect(device == .init(model: expected, system: expected, cores: 1))
    #expect(device.model == expected && device.cores == 1)
    #expect(
        BenchmarkResult.Device(model: name, system: String(repeating: "a", count: 501), cores: 8)
            .system.count == 500)
}

@Test func aCancelledTaskMeasuresNoView() async throws {
    let slow = try Slow(.zero)
    let task = Task {
        withUnsafeCurrentTask { $0?.cancel() }
        return try await slow.benchmark(BenchmarkPlan())
    }
    await #expect(throws: CancellationError.self) { try await task.value }
    #expect(await slow.runtime.inputs.isEmpty)
}
