import Foundation
import Testing

@testable import MsdDeployCore

private let names = [
    "labels.json", "model.mlpackage/Data/weights.bin", "model.mlpackage/Manifest.json",
    "preprocess.json", "text.json", "vectors.json",
]

/// Calls with a whole bundle in a temporary folder, and removes that afterwards.
private func withBundle(_ call: (URL) throws -> Void) throws {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
    defer { try? FileManager.default.removeItem(at: folder) }
    let data = folder.appendingPathComponent("model.mlpackage/Data")
    try FileManager.default.createDirectory(at: data, withIntermediateDirectories: true)
    let contents = try [
        Spec.labels(), Data(repeating: 7, count: 300_000), Data("{}".utf8), Spec.preprocess(),
        Spec.text(), readFile("vectors.json", in: Spec.vectors),
    ]
    var files: [String: String] = [:]
    for (name, content) in zip(names, contents) {
        try content.write(to: folder.appendingPathComponent(name))
        files[name] = SHA256.hexDigest(of: Array(content))
    }
    let manifest: [String: Any] = [
        "schema_version": 1, "kind": "bundle", "platform": "ios", "form": "coreml-fp16",
        "model": "model.mlpackage", "files": files, "msd_deploy": "0.1.0",
        "created_utc": "2026-11-30T16:00:00+00:00", "export_digest": "0123",
    ]
    try JSONSerialization.data(withJSONObject: manifest).write(to: manifestURL(folder))
    try call(folder)
}

private func manifestURL(_ folder: URL) -> URL { folder.appendingPathComponent("manifest.json") }

@Test func aWholeBundleIsOpened() throws {
    try withBundle { folder in
        let bundle = try ModelBundle(folder: folder)
        #expect(bundle.form == "coreml-fp16")
        #expect(bundle.modelURL == folder.appendingPathComponent("model.mlpackage"))
        #expect(bundle.fallback == nil)
        #expect(try !bundle.isCoreAI && bundle.forCoreML().modelURL == bundle.modelURL)
        #expect(bundle.exportDigest == "0123")
        #expect(bundle.labels.names == ["benign", "hateful"])
        #expect(bundle.imageSpec.mode == .fit)
        #expect(bundle.tokenizer.encode("").inputIDs[0] == 2)
        let manifest = try Data(contentsOf: manifestURL(folder))
        #expect(bundle.digest == SHA256.hexDigest(of: Array(manifest)))
    }
}

@Test func aBundleThatPythonWroteIsOpened() throws {
    #expect(try ModelBundle(folder: Spec.bundle).form == "coreml-fp16")
}

@Test func aCoreAIAssetMayHaveAFallback() throws {
    try withBundle { folder in
        let asset = folder.appendingPathComponent("model.aimodel")
        try Spec.labels().write(to: asset)
        var json = try Data(contentsOf: manifestURL(folder))
        json = try changed(json, "form", to: #""coreai-fp16""#)
        json = try changed(json, "model", to: #""model.aimodel""#)
        let digest = SHA256.hexDigest(of: Array(try Spec.labels()))
        let text = String(decoding: json, as: UTF8.self).replacingOccurrences(
            of: "\"files\":{", with: "\"files\":{\"model.aimodel\":\"\(digest)\",")
        try Data(text.utf8).write(to: manifestURL(folder))

        let alone = try ModelBundle(folder: folder)
        #expect(alone.isCoreAI && alone.modelURL == asset)
        #expect(
            message { try alone.forCoreML() }
                == "model.aimodel: needs Core AI: iOS 27 or macOS 27, and an app that Xcode 27"
                + " built. Bundle the model with --form coreml-fp16.")

        let fallback =
            #"{"model": "model.mlpackage", "form": "coreml-fp16", "export_digest": "4567"}"#
        json = try changed(Data(text.utf8), "fallback", to: fallback)
        try json.write(to: manifestURL(folder))
        let bundle = try ModelBundle(folder: folder)
        #expect(bundle.isCoreAI && bundle.modelURL == asset)
        let ofCoreML = try bundle.forCoreML()
        #expect(ofCoreML.modelURL == folder.appendingPathComponent("model.mlpackage"))
        #expect(ofCoreML.form == "coreml-fp16" && ofCoreML.exportDigest == "4567")
        #expect(ofCoreML.digest == bundle.digest)
    }
}

@Test(arguments: names)
func aDamagedFileIsNamed(name: String) throws {
    try withBundle { folder in
        let url = folder.appendingPathComponent(name)
        var content = try Data(contentsOf: url)
        content[content.count - 1] ^= 1
        try content.write(to: url)
        let found = message { try ModelBundle(folder: folder) }
        #expect(found?.hasPrefix("\(name): is damaged: its SHA-256 is not that of") == true)
    }
}

@Test(arguments: ["labels.json", "vectors.json"])
func aFileThatIsAlteredAfterOpeningIsNotRead(name: String) throws {
    try withBundle { folder in
        let url = folder.appendingPathComponent(name)
        let content = try Data(contentsOf: url)
        let bundle = try ModelBundle(folder: folder)
        #expect(try bundle.read(name) == content)
        try (content + Data(" ".utf8)).write(to: url)
        let found = message { try bundle.read(name) }
        #expect(found?.hasPrefix("\(name): is damaged: its SHA-256 is not that of") == true)
        try FileManager.default.removeItem(at: url)
        #expect(message { try bundle.read(name) }?.hasPrefix("\(name): cannot be read in") == true)
    }
}

@Test func aFileThatIsNotListedIsNotRead() throws {
    try withBundle { folder in
        try Spec.text().write(to: folder.appendingPathComponent("other.json"))
        let bundle = try ModelBundle(folder: folder)
        for name in ["other.json", "manifest.json", "../labels.json"] {
            let found = message { try bundle.read(name) }
            #expect(found?.hasPrefix("\(name): is not in manifest.json.") == true)
        }
    }
}

@Test(arguments: ["labels.json", "preprocess.json", "text.json", "vectors.json"])
func aFileThatTheManifestDoesNotListIsNamed(name: String) throws {
    try withBundle { folder in
        let url = manifestURL(folder)
        let json = try JSONSerialization.jsonObject(with: Data(contentsOf: url))
        var manifest = try #require(json as? [String: Any])
        var files = try #require(manifest["files"] as? [String: String])
        files[name] = nil
        manifest["files"] = files
        try JSONSerialization.data(withJSONObject: manifest).write(to: url)
        let found = message { try ModelBundle(folder: folder) }
        #expect(found?.hasPrefix("manifest.json: files has no \(name).") == true)
    }
}

@Test(arguments: names + ["manifest.json"])
func aMissingFileIsNamed(name: String) throws {
    try withBundle { folder in
        try FileManager.default.removeItem(at: folder.appendingPathComponent(name))
        let found = message { try ModelBundle(folder: folder) }
        #expect(found?.hasPrefix("\(name): ") == true)
        #expect(found?.contains(folder.path) == true)
    }
}

@Test(arguments: [
    ("schema_version", "2", "schema_version is not 1. Use the Swift package"),
    ("kind", #""export""#, #"kind is not "bundle""#),
    ("platform", #""android""#, #"platform is not "ios""#),
    ("model", #""other.mlpackage""#, "files has nothing of the model, other.mlpackage"),
    ("model", #""model""#, "files has nothing of the model, model"),
    ("files", #"{"model.mlpackage": ""}"#, "files has no labels.json"),
    ("form", nil, "has no form"),
    ("export_digest", nil, "has no export_digest"),
    ("fallback", #"{"model": "other.mlpackage"}"#, "files has nothing of the model, other"),
    ("fallback", #"{"model": "model.mlpackage"}"#, "fallback has no form"),
    ("fallback", #""model.mlpackage""#, "fallback is not an object"),
])
func anInvalidManifestIsRefusedByItsKey(key: String, value: String?, expected: String) throws {
    try withBundle { folder in
        let json = try changed(Data(contentsOf: manifestURL(folder)), key, to: value)
        try json.write(to: manifestURL(folder))
        let found = message { try ModelBundle(folder: folder) }
        #expect(found?.hasPrefix("manifest.json: \(expected)") == true, "\(found ?? "no error")")
    }
}

@Test(arguments: ["../labels.json", "/labels.json", "a/../labels.json", "./a", "a\\b"])
func aPathOutsideTheFolderIsRefused(path: String) throws {
    try withBundle { folder in
        let text = String(decoding: try Data(contentsOf: manifestURL(folder)), as: UTF8.self)
        let files = "\"files\":{\"\(path.replacing("\\", with: "\\\\"))\":\"\","
        let changed = text.replacingOccurrences(of: "\"files\":{", with: files)
        try Data(changed.utf8).write(to: manifestURL(folder))
        let found = message { try ModelBundle(folder: folder) }
        #expect(found?.hasPrefix("manifest.json: files has \(path), which is not a path") == true)
    }
}

@Test(arguments: [
    (#""kind": "bundle", "kind": "bundle""#, "kind"),
    (#""files": {"a\"b": "", "c": {}, "a\u0022b" : ""}"#, "a\"b"),
    (#""files": [{"a": ["{", 1]}, {"a": 1, "b": "c", "\\": [{}], "a": 2}]"#, "a"),
])
func aKeyThatIsThereTwiceIsRefused(pairs: String, key: String) throws {
    let content = Data(#"{"schema_version": 1, \#(pairs)}"#.utf8)
    let found = message { try JSON(content, file: "manifest.json") }
    #expect(found?.hasPrefix("manifest.json: has the key \(key) twice.") == true)
}

@Test func keysOfDifferentObjectsMayBeEqual() throws {
    let content = #"{"schema_version": 1, "a": {"a": "a"}, "b": [{"a": "b:"}, {"a": ["a", "a"]}]}"#
    let json = try JSON(Data(content.utf8), file: "a.json")
    #expect(try json["b"].list()[1]["a"].list().count == 2)
}

@Test(arguments: [String.Encoding.utf8, .utf16, .utf16LittleEndian, .utf32BigEndian])
func onlyUTF8IsRead(encoding: String.Encoding) throws {
    let content = try #require(#"{"schema_version": 1}"#.data(using: encoding))
    let found = message { try JSON(content, file: "a.json") }
    #expect(found?.hasPrefix("a.json: is not JSON in UTF-8.") == (encoding == .utf8 ? nil : true))
}
