#if canImport(CoreML) && canImport(ImageIO)
    import CoreML
    import Foundation
    @_exported import MsdDeployCore

    extension MultimodalClassifier {
        /// Loads the model that is part of this package.
        ///
        /// Verifies each file and, the first time, compiles the model: call it once, not from the
        /// main actor.
        ///
        /// - Parameter computeUnits: Where the model may run. Each rounds differently.
        /// - Throws: `BundleError` that names the file that is missing, altered or invalid.
        public static func load(
            computeUnits: MLComputeUnits = .all
        ) async throws -> sending MultimodalClassifier {
            let bundle = try ModelBundle(folder: bundledModel())
            return try await MultimodalClassifier(
                bundle, runtime: CoreMLRuntime.load(bundle, computeUnits: computeUnits))
        }

        /// Classifies an image file, a text, or both; see `classify(image:text:topK:threshold:)`.
        ///
        /// - Parameter imageFile: The content of the file as it was stored; nil: no image.
        /// - Throws: `BundleError` also if the file cannot be decoded.
        public func classify(
            imageFile: Data?, text: String?, topK: Int = 5, threshold: Double? = nil
        ) throws -> Classification {
            let image = try imageFile.map(ImageIODecoder(imageSpec).decode)
            return try classify(image: image, text: text, topK: topK, threshold: threshold)
        }

        /// Replays the test vectors of the model that is part of this package.
        ///
        /// - Returns: Every difference from Python; none if this device does what Python does.
        public func selfTest() throws -> [Difference] {
            try selfTest(vectors: Self.bundledModel(), decoder: ImageIODecoder(imageSpec))
        }

        private static func bundledModel() throws -> URL {
            guard let folder = Bundle.module.url(forResource: "model", withExtension: nil) else {
                throw BundleError(
                    subject: "model", problem: "is not a resource of the package",
                    fix: "Copy the folder that msd bundle wrote with all its files")
            }
            return folder
        }
    }
#endif
