import Foundation

/// The folder that `msd bundle` writes, after each of its files was verified.
public struct ModelBundle: Sendable {
    public let folder: URL
    /// The Core ML model, not compiled.
    public let modelURL: URL
    /// Format and precision of the model, such as "coreml-fp16".
    public let form: String
    /// SHA-256 of manifest.json, which has those of all files: another model has another one.
    public let digest: String
    public let labels: Labels
    public let tokenizer: Tokenizer
    public let imageSpec: ImageSpec

    /// Reads a folder. Takes as long as reading the model file once.
    ///
    /// - Throws: `BundleError` that names the file that is missing, altered or invalid.
    public init(folder: URL) throws {
        let content = try readFile("manifest.json", in: folder)
        let manifest = try JSON(content, file: "manifest.json")
        try manifest["kind"].check("bundle")
        try manifest["platform"].check("ios")
        let (model, files) = try (manifest["model"].text(), manifest["files"].object())
        guard files.keys.contains(where: { $0 == model || $0.hasPrefix("\(model)/") }) else {
            throw try manifest["files"].error("has nothing of the model, \(model)")
        }
        for name in ["labels.json", "preprocess.json", "text.json"] where files[name] == nil {
            throw try manifest["files"].error("has no \(name)")
        }
        for (name, digest) in files.sorted(by: { $0.key < $1.key }) {
            try Self.verify(name, digest: digest, in: folder)
        }
        self.folder = folder
        modelURL = folder.appendingPathComponent(model)
        form = try manifest["form"].text()
        digest = SHA256.hexDigest(of: Array(content))
        labels = try Labels(json: readFile("labels.json", in: folder))
        tokenizer = try Tokenizer(json: readFile("text.json", in: folder))
        imageSpec = try ImageSpec(json: readFile("preprocess.json", in: folder))
    }

    private static func verify(_ name: String, digest: JSON, in folder: URL) throws {
        let parts = name.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.allSatisfy({ !["", ".", ".."].contains($0) }) else {
            throw digest.error("is not of a path in the folder")
        }
        let url = folder.appendingPathComponent(name)
        guard FileManager.default.fileExists(atPath: url.path) else {
            throw BundleError(file: name, "is missing in \(folder.path)")
        }
        guard try SHA256.hexDigest(ofFileAt: url) == digest.text() else {
            throw BundleError(file: name, "is damaged: its SHA-256 is not that of manifest.json")
        }
    }
}
