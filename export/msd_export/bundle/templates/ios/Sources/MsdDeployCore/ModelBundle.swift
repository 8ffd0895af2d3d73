import Foundation

/// The folder that `msd bundle` writes, after each of its files was verified.
public struct ModelBundle: Sendable {
    public let folder: URL
    /// The model: a Core ML package, not compiled, or a Core AI asset.
    public private(set) var modelURL: URL
    /// Format and precision of the model, such as "coreml-fp16".
    public private(set) var form: String
    /// SHA-256 of the manifest of the export that the model is of.
    public private(set) var exportDigest: String
    /// What runs where Core AI is missing; nil: the bundle has nothing for that.
    public let fallback: Fallback?
    /// SHA-256 of manifest.json, which has those of all files: another model has another one.
    public let digest: String
    public let labels: Labels
    public let tokenizer: Tokenizer
    public let imageSpec: ImageSpec

    /// A Core ML package beside a Core AI asset, of the same student.
    public struct Fallback: Sendable {
        public let modelURL: URL
        public let form: String
        public let exportDigest: String
    }

    /// Whether the model is a Core AI asset.
    public var isCoreAI: Bool { modelURL.pathExtension == "aimodel" }

    /// Returns the bundle with a Core ML package as its model: itself, or with its fallback.
    ///
    /// - Throws: `BundleError` if the bundle has none.
    public func forCoreML() throws -> ModelBundle {
        guard isCoreAI else { return self }
        guard let fallback else {
            throw BundleError(
                subject: modelURL.lastPathComponent,
                problem: "needs Core AI: iOS 27 or macOS 27, and an app that Xcode 27 built",
                fix: "Bundle the model with --form coreml-fp16")
        }
        var bundle = self
        (bundle.modelURL, bundle.form) = (fallback.modelURL, fallback.form)
        bundle.exportDigest = fallback.exportDigest
        return bundle
    }
}

// Not among the members above: tests make a bundle of its parts.
extension ModelBundle {
    /// Reads a folder. Takes as long as reading the model file once.
    ///
    /// - Throws: `BundleError` that names the file that is missing, altered or invalid.
    public init(folder: URL) throws {
        let content = try readFile("manifest.json", in: folder)
        let manifest = try JSON(content, file: "manifest.json")
        try manifest["kind"].check("bundle")
        try manifest["platform"].check("ios")
        let (model, files) = try (manifest["model"].text(), manifest["files"].object())
        let stated = try manifest.object()["fallback"]
        for name in try [model, stated?["model"].text()].compactMap({ $0 })
        where !files.keys.contains(where: { $0 == name || $0.hasPrefix("\(name)/") }) {
            throw try manifest["files"].error("has nothing of the model, \(name)")
        }
        for name in ["labels.json", "preprocess.json", "text.json"] where files[name] == nil {
            throw try manifest["files"].error("has no \(name)")
        }
        for (name, digest) in files.sorted(by: { $0.key < $1.key }) {
            try Self.verify(name, digest: digest, in: folder)
        }
        self.folder = folder
        modelURL = folder.appendingPathComponent(model)
        fallback = try stated.map {
            try Fallback(
                modelURL: folder.appendingPathComponent($0["model"].text()),
                form: $0["form"].text(), exportDigest: $0["export_digest"].text())
        }
        form = try manifest["form"].text()
        digest = SHA256.hexDigest(of: Array(content))
        exportDigest = try manifest["export_digest"].text()
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
