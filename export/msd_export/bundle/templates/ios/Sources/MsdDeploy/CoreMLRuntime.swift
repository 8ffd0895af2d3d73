#if canImport(CoreML)
    import CoreML
    import CoreVideo
    import Foundation
    import MsdDeployCore

    /// Runs the Core ML package of a bundle.
    public actor CoreMLRuntime: Runtime {
        public nonisolated let name: String
        public nonisolated let threads: Int? = nil
        private let model: MLModel
        private let imageSpec: ImageSpec

        /// Loads a model. The first time it is compiled, into the app's folder of Caches; later
        /// that is read, unless the system has emptied Caches or the bundle has changed.
        ///
        /// - Parameters:
        ///   - bundle: A bundle whose model is a .mlpackage.
        ///   - computeUnits: Where the model may run. Each rounds differently.
        /// - Throws: `BundleError` if Core ML cannot load it.
        public static func load(
            _ bundle: ModelBundle, computeUnits: MLComputeUnits = .all
        ) async throws -> CoreMLRuntime {
            let configuration = MLModelConfiguration()
            configuration.computeUnits = computeUnits
            if let kept = try? cacheURL(bundle), FileManager.default.fileExists(atPath: kept.path) {
                if let cached = try? MLModel(contentsOf: kept, configuration: configuration) {
                    removeUnused(beside: kept)
                    return CoreMLRuntime(cached, computeUnits, bundle.imageSpec)
                }
                // One that is damaged, or that this system no longer reads, is compiled again.
                try? FileManager.default.removeItem(at: kept)
            }
            do {
                let compiled = try await MLModel.compileModel(at: bundle.modelURL)
                let model = try MLModel(
                    contentsOf: keep(compiled, of: bundle), configuration: configuration)
                return CoreMLRuntime(model, computeUnits, bundle.imageSpec)
            } catch {
                throw BundleError(
                    subject: bundle.modelURL.lastPathComponent,
                    problem: "cannot be loaded by Core ML (\(error.localizedDescription))",
                    fix: "Copy the bundle again, and check that the device has space left")
            }
        }

        private init(_ model: MLModel, _ computeUnits: MLComputeUnits, _ imageSpec: ImageSpec) {
            (self.model, self.imageSpec) = (model, imageSpec)
            name = "Core ML, \(BenchmarkResult.Device.current.system), \(computeUnits.title)"
        }

        /// Returns the model's outputs.
        ///
        /// - Throws: `BundleError` if Core ML cannot run the model, or it has other outputs.
        public func run(_ input: ModelInput) throws -> ModelOutput {
            let length = [1, NSNumber(value: input.inputIDs.count)]
            let outputs: any MLFeatureProvider
            do {
                outputs = try model.prediction(
                    from: MLDictionaryFeatureProvider(dictionary: [
                        "image": MLFeatureValue(pixelBuffer: pixelBuffer(input.pixels)),
                        "image_present": feature([input.imagePresent], [1]),
                        "input_ids": feature(input.inputIDs, length),
                        "attention_mask": feature(input.attentionMask, length),
                    ]))
            } catch {
                throw BundleError(
                    subject: "model", problem: "cannot be run (\(error.localizedDescription))",
                    fix: "Run it with computeUnits .cpuOnly")
            }
            return try ModelOutput(
                logits: numbers(outputs, "logits"),
                probabilities: numbers(outputs, "probabilities"))
        }

        private static func cacheURL(_ bundle: ModelBundle) throws -> URL {
            try FileManager.default
                .url(for: .cachesDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
                // Without a sandbox, as on macOS, all apps have one folder Caches.
                .appendingPathComponent(Bundle.main.bundleIdentifier ?? "msd-deploy")
                .appendingPathComponent("msd-deploy/\(bundle.digest).mlmodelc")
        }

        /// Moves a compiled model from the temporary folder to Caches, and returns where it is.
        ///
        /// One that another load has put there meanwhile is left alone: it is being opened.
        private static func keep(_ compiled: URL, of bundle: ModelBundle) throws -> URL {
            let (kept, files) = (try cacheURL(bundle), FileManager.default)
            let folder = kept.deletingLastPathComponent()
            let moved = folder.appendingPathComponent("\(UUID().uuidString).mlmodelc")
            do {
                try files.createDirectory(at: folder, withIntermediateDirectories: true)
                // Perhaps copied from another volume: the name is taken when it is whole.
                try files.moveItem(at: compiled, to: moved)
            } catch {
                // A full disk costs the next start some time, and is no reason to fail.
                try? files.removeItem(at: moved)
                return compiled
            }
            do {
                try files.moveItem(at: moved, to: kept)
                return kept
            } catch {
                return moved
            }
        }

        /// Removes models that were not loaded for 30 days, such as those of earlier bundles.
        private static func removeUnused(beside kept: URL) {
            let files = FileManager.default
            try? files.setAttributes([.modificationDate: Date.now], ofItemAtPath: kept.path)
            let models = try? files.contentsOfDirectory(
                at: kept.deletingLastPathComponent(), includingPropertiesForKeys: nil)
            for model in models ?? [] {
                let values = try? model.resourceValues(forKeys: [.contentModificationDateKey])
                guard let loaded = values?.contentModificationDate,
                    loaded.timeIntervalSinceNow < -30 * 86_400
                else { continue }
                try? files.removeItem(at: model)
            }
        }

        private func feature(_ numbers: [Int32], _ shape: [NSNumber]) throws -> MLFeatureValue {
            let array = try MLMultiArray(shape: shape, dataType: .int32)
            for (index, number) in numbers.enumerated() { array[index] = NSNumber(value: number) }
            return MLFeatureValue(multiArray: array)
        }

        /// Returns pixels as a buffer, byte for byte: Core ML applies no colour space to it.
        private nonisolated func pixelBuffer(_ pixels: [UInt8]) throws -> CVPixelBuffer {
            let (width, height) = (imageSpec.width, imageSpec.height)
            var created: CVPixelBuffer?
            let status = CVPixelBufferCreate(
                nil, width, height, kCVPixelFormatType_32BGRA, nil, &created)
            guard status == kCVReturnSuccess, let buffer = created else {
                throw Self.noBuffer(status)
            }
            let lockStatus = CVPixelBufferLockBaseAddress(buffer, [])
            guard lockStatus == kCVReturnSuccess else { throw Self.noBuffer(lockStatus) }
            defer { CVPixelBufferUnlockBaseAddress(buffer, []) }
            guard let start = CVPixelBufferGetBaseAddress(buffer) else {
                throw Self.noBuffer(lockStatus)
            }
            let rowBytes = CVPixelBufferGetBytesPerRow(buffer)
            for row in 0..<height {
                for column in 0..<width {
                    let offset = 3 * (row * width + column)
                    let pixel = start + row * rowBytes + 4 * column
                    // Blue, green, red and opacity.
                    for channel in 0..<3 {
                        pixel.storeBytes(
                            of: pixels[offset + 2 - channel], toByteOffset: channel, as: UInt8.self)
                    }
                    pixel.storeBytes(of: 255, toByteOffset: 3, as: UInt8.self)
                }
            }
            return buffer
        }

        private static func noBuffer(_ status: CVReturn) -> BundleError {
            BundleError(
                subject: "pixels", problem: "have no buffer (Core Video error \(status))",
                fix: "Check that the device has memory left")
        }

        private func numbers(_ outputs: any MLFeatureProvider, _ name: String) throws -> [Float] {
            guard let array = outputs.featureValue(for: name)?.multiArrayValue else {
                throw BundleError(
                    subject: "model", problem: "has no output \(name)",
                    fix: "Use the model that msd export wrote")
            }
            return (0..<array.count).map { array[$0].floatValue }
        }
    }

    extension MLComputeUnits {
        var title: String {
            switch self {
            case .cpuOnly: "CPU"
            case .cpuAndGPU: "CPU and GPU"
            case .cpuAndNeuralEngine: "CPU and Neural Engine"
            default: "all compute units"
            }
        }
    }
#endif
