#if canImport(CoreML) && canImport(ImageIO)
    import CoreML
    import Foundation
    @_exported import MsdDeployCore

    extension MultimodalClassifier {
        /// Loads the model that is part of this package; see `load(folder:computeUnits:)`.
        public static func load(
            computeUnits: MLComputeUnits = .all
        ) async throws -> MultimodalClassifier {
            try await load(folder: bundledModel(), computeUnits: computeUnits)
        }

        /// Loads a model from a folder that `msd bundle` wrote.
        ///
        /// Verifies each file and, the first time, compiles the model: call it once. `load_ms` of a
        /// benchmark is the time that this took, the first time with compiling. A Core AI
        /// asset runs on iOS 27, macOS 27 or later; its fallback in Core ML before that, and where
        /// the app was built without Core AI.
        ///
        /// - Parameters:
        ///   - folder: The bundle's folder with manifest.json.
        ///   - computeUnits: Where the model may run. Each rounds differently.
        /// - Throws: `BundleError` that names the file that is missing, altered or invalid.
        public static func load(
            folder: URL, computeUnits: MLComputeUnits = .all
        ) async throws -> MultimodalClassifier {
            let start = ContinuousClock.now
            let bundle = try ModelBundle(folder: folder)
            #if canImport(CoreAI)
                if #available(iOS 27, macOS 27, *), bundle.isCoreAI {
                    let runtime = try await CoreAIRuntime.load(bundle, computeUnits: computeUnits)
                    return try MultimodalClassifier(
                        bundle, runtime: runtime, loadTime: start.duration(to: .now))
                }
            #endif
            let ofCoreML = try bundle.forCoreML()
            let runtime = try await CoreMLRuntime.load(ofCoreML, computeUnits: computeUnits)
            return try MultimodalClassifier(
                ofCoreML, runtime: runtime, loadTime: start.duration(to: .now))
        }

        /// Classifies an image file, a text, or both; see `classify(image:text:topK:threshold:)`.
        ///
        /// - Parameter imageFile: The content of the file as it was stored; nil: no image.
        /// - Throws: `BundleError` also if the file cannot be decoded.
        public func classify(
            imageFile: Data?, text: String?, topK: Int = 5, threshold: Double? = nil
        ) async throws -> Classification {
            let image = try imageFile.map(ImageIODecoder(bundle.imageSpec).decode)
            return try await classify(image: image, text: text, topK: topK, threshold: threshold)
        }

        /// Replays the test vectors of the bundle.
        ///
        /// - Returns: Every difference from Python; none if this device does what Python does.
        public func selfTest() async throws -> [Difference] {
            try await selfTest(decoder: ImageIODecoder(bundle.imageSpec))
        }

        /// Measures the latency on this device; see
        /// `benchmark(photo:text:plan:decoder:device:conditions:)`.
        public func benchmark(
            photo: Data? = nil, text: String? = nil, plan: BenchmarkPlan = BenchmarkPlan()
        ) async throws -> BenchmarkResult {
            try await benchmark(
                photo: photo, text: text, plan: plan, decoder: ImageIODecoder(bundle.imageSpec),
                device: .current, conditions: { .current })
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
