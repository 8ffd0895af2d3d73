import Foundation

@testable import MsdDeployCore

/// What `msd vectors` and a model folder hold, in the folder Spec beside Package.swift.
enum Spec {
    static let folder = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        .appendingPathComponent("Spec")
    static let vectors = folder.appendingPathComponent("vectors")
    /// The bundle that Python wrote.
    static let bundle = folder.deletingLastPathComponent()
        .appendingPathComponent("Sources/MsdDeploy/Resources/model")

    static func labels() throws -> Data { try readFile("labels.json", in: folder) }
    static func preprocess() throws -> Data { try readFile("preprocess.json", in: folder) }
    static func text() throws -> Data { try readFile("text.json", in: vectors) }

    static func json(_ name: String) throws -> JSON {
        try JSON(readFile(name, in: vectors), file: name)
    }
}

extension ModelBundle {
    /// A bundle whose model is not there, with some contents of `Spec`, or others, and which lists
    /// `files`.
    init(
        vectors folder: URL = Spec.vectors, text: Data? = nil, preprocess: Data? = nil,
        labels: Data? = nil, files: [String] = []
    ) throws {
        try self.init(
            folder: folder, modelURL: Spec.folder.appendingPathComponent("model.mlpackage"),
            form: "coreml-fp16", exportDigest: "2", fallback: nil, digest: "1",
            digests: Dictionary(
                uniqueKeysWithValues: files.map {
                    try ($0, SHA256.hexDigest(of: readFile($0, in: folder)))
                }),
            labels: Labels(json: labels ?? Spec.labels()),
            tokenizer: Tokenizer(json: text ?? Spec.text()),
            imageSpec: ImageSpec(json: preprocess ?? Spec.preprocess()))
    }
}

/// Returns a JSON object with another value, itself as JSON, at a path such as `image.mode`; none
/// if `value` is nil.
func changed(_ json: Data, _ path: String, to value: String?) throws -> Data {
    func change(_ object: Any, _ keys: ArraySlice<Substring>, _ value: Any?) -> Any? {
        guard let key = keys.first.map(String.init) else { return value }
        var object = object as? [String: Any] ?? [:]
        object[key] = change(object[key] as Any, keys.dropFirst(), value)
        return object
    }
    let parsed = try value.map {
        try JSONSerialization.jsonObject(with: Data($0.utf8), options: .fragmentsAllowed)
    }
    let object = try JSONSerialization.jsonObject(with: json)
    let keys = path.split(separator: ".")[...]
    return try JSONSerialization.data(withJSONObject: change(object, keys, parsed) as Any)
}

/// Calls with the vectors, of which vectors.json has another value, in a temporary folder.
func withVectors(
    _ key: String, _ value: String, _ call: (URL) async throws -> Void
) async throws {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
    defer { try? FileManager.default.removeItem(at: folder) }
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    try FileManager.default.copyItem(
        at: Spec.vectors.appendingPathComponent("examples"),
        to: folder.appendingPathComponent("examples"))
    try changed(readFile("vectors.json", in: Spec.vectors), key, to: value)
        .write(to: folder.appendingPathComponent("vectors.json"))
    try await call(folder)
}

/// Returns the message of the error that a call throws; nil if it throws none.
func message<Result>(of call: () throws -> Result) -> String? {
    do {
        _ = try call()
        return nil
    } catch {
        return "\(error)"
    }
}

/// Returns the message of the error that an asynchronous call throws; nil if it throws none.
func message<Result>(of call: () async throws -> Result) async -> String? {
    do {
        _ = try await call()
        return nil
    } catch {
        return "\(error)"
    }
}

/// The most memory that this process has had so far, in bytes.
func peakMemoryBytes() -> Int {
    var usage = rusage()
    #if os(Linux)
        getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
        return usage.ru_maxrss * 1024
    #else
        getrusage(RUSAGE_SELF, &usage)
        return usage.ru_maxrss
    #endif
}
