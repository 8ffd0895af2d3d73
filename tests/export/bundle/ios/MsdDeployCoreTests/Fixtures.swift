import Foundation

@testable import MsdDeployCore

/// What `msd vectors` and a model folder hold, in the folder Spec beside Package.swift.
enum Spec {
    static let folder = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        .appendingPathComponent("Spec")
    static let vectors = folder.appendingPathComponent("vectors")

    static func labels() throws -> Data { try readFile("labels.json", in: folder) }
    static func preprocess() throws -> Data { try readFile("preprocess.json", in: folder) }
    static func text() throws -> Data { try readFile("text.json", in: vectors) }

    static func json(_ name: String) throws -> JSON { try JSON(file: name, in: vectors) }
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

/// Returns the message of the error that a call throws; nil if it throws none.
func message<Result>(of call: () throws -> Result) -> String? {
    do {
        _ = try call()
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
