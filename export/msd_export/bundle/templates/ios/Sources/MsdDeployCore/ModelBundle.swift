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
    /// SHA-256 of each file of manifest.json, by its path.
    let digests: [String: String]
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

    /// Returns the content of a file, such as "vectors.json", after verifying these very bytes.
    ///
    /// - Throws: `BundleError` if manifest.json has no such file, or it is missing or altered.
    public func read(_ name: String) throws -> Data {
        try Self.read(name, digest: digests[name], in: folder)
    }

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
        for name in ["labels.json", "preprocess.json", "text.json", "vectors.json"]
        where files[name] == nil {
            throw try manifest["files"].error("has no \(name)")
        }
        for name in files.keys.sorted() where !Self.isInside(name) {
            throw try manifest["files"].error("has \(name), which is not a path in the folder")
        }
        let digests = try files.mapValues { try $0.text() }
        for (name, digest) in digests.sorted(by: { $0.key < $1.key }) {
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
        digest = SHA256.hexDigest(of: content)
        self.digests = digests
        exportDigest = try manifest["export_digest"].text()
        let read = { try Self.read($0, digest: digests[$0], in: folder) }
        labels = try Labels(json: read("labels.json"))
        tokenizer = try Tokenizer(json: read("text.json"))
        imageSpec = try ImageSpec(json: read("preprocess.json"))
    }

    private static func isInside(_ name: String) -> Bool {
        let parts = name.split(separator: "/", omittingEmptySubsequences: false)
        return !name.contains("\\") && !parts.contains { ["", ".", ".."].contains($0) }
    }

    private static func verify(_ name: String, digest: String, in folder: URL) throws {
        let url = folder.appendingPathComponent(name)
        guard FileManager.default.fileExists(atPath: url.path) else {
            throw BundleError(file: name, "is missing in \(folder.path)")
        }
        guard SHA256.hexDigest(ofFileAt: url) == digest else { throw damaged(name) }
    }

    private static func read(_ name: String, digest: String?, in folder: URL) throws -> Data {
        guard let digest else { throw BundleError(file: name, "is not in manifest.json") }
        let content = try readFile(name, in: folder)
        guard SHA256.hexDigest(of: content) == digest else { throw damaged(name) }
        return content
    }

    private static func damaged(_ name: String) -> BundleError {
        BundleError(file: name, "is damaged: its SHA-256 is not that of manifest.json")
    }
}
