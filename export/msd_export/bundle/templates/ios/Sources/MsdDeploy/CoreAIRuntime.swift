#if canImport(CoreAI)
    import CoreAI
    import CoreML
    import Foundation
    import MsdDeployCore

    /// Runs the Core AI asset of a bundle.
    @available(iOS 27, macOS 27, *)
    public struct CoreAIRuntime: Runtime {
        public let name: String
        public let threads: Int? = nil
        private let function: InferenceFunction
        /// Takes a text alone; nil: the asset has no such function.
        private let textFunction: InferenceFunction?
        private let imageSpec: ImageSpec

        /// Loads an asset. The first time Core AI specializes it for the device, and keeps that.
        ///
        /// - Parameters:
        ///   - bundle: A bundle whose model is a .aimodel.
        ///   - computeUnits: Where the model may run. Core AI prefers a GPU or Neural Engine that
        ///     is named here, and may use others as well.
        /// - Throws: `BundleError` if Core AI cannot load the asset, or it has no function `main`.
        public static func load(
            _ bundle: ModelBundle, computeUnits: MLComputeUnits = .all
        ) async throws -> CoreAIRuntime {
            let subject = bundle.modelURL.lastPathComponent
            do {
                let model = try await AIModel(
                    contentsOf: bundle.modelURL, options: computeUnits.specialization)
                guard let function = try model.loadFunction(named: "main") else {
                    throw BundleError(
                        subject: subject, problem: "has no function main",
                        fix: "Use the model that msd export wrote")
                }
                let system = BenchmarkResult.Device.current.system
                return try CoreAIRuntime(
                    name: "Core AI, \(system), \(computeUnits.title)",
                    function: function, textFunction: model.loadFunction(named: "text"),
                    imageSpec: bundle.imageSpec)
            } catch let error as BundleError {
                throw error
            } catch {
                throw BundleError(
                    subject: subject,
                    problem: "cannot be loaded by Core AI (\(error.localizedDescription))",
                    fix: "Export it again with the newest coreai-torch, and bundle it again")
            }
        }

        /// Returns the model's outputs.
        ///
        /// - Throws: `BundleError` if Core AI cannot run the model, or it has other outputs.
        public func run(_ input: ModelInput) async throws -> ModelOutput {
            let length = input.inputIDs.count
            var inputs = [
                "input_ids": array(input.inputIDs, [1, length], .int32),
                "attention_mask": array(input.attentionMask, [1, length], .int32),
            ]
            var called = function
            if input.imagePresent == 0, let textFunction {
                called = textFunction
            } else {
                let shape = [1, imageSpec.height, imageSpec.width, 3]
                inputs["image"] = array(input.pixels, shape, .uint8)
                inputs["image_present"] = array([input.imagePresent], [1], .int32)
            }
            let logits: NDArray?
            let probabilities: NDArray?
            do {
                var outputs = try await called.run(inputs: inputs)
                logits = outputs.remove("logits")?.ndArray
                probabilities = outputs.remove("probabilities")?.ndArray
            } catch {
                throw BundleError(
                    subject: "model", problem: "cannot be run (\(error.localizedDescription))",
                    fix: "Run it with computeUnits .cpuOnly")
            }
            return try ModelOutput(
                logits: numbers(logits, "logits"),
                probabilities: numbers(probabilities, "probabilities"))
        }

        /// Returns an array with numbers in rows without gaps, as Core AI makes it of a shape.
        private func array<Number: BitwiseCopyable>(
            _ numbers: [Number], _ shape: [Int], _ type: NDArray.ScalarType
        ) -> NDArray {
            var array = NDArray(shape: shape, scalarType: type)
            let view = array.mutableView(as: Number.self)
            view.withUnsafeMutablePointer { start, _, _ in
                start.update(from: numbers, count: numbers.count)
            }
            return array
        }

        /// Returns the numbers of an output: Core AI leaves no gaps between the rows of one.
        private func numbers(_ output: NDArray?, _ name: String) throws -> [Float] {
            guard let output, output.scalarType == .float32 else {
                throw BundleError(
                    subject: "model", problem: "has no output \(name) of type float32",
                    fix: "Use the model that msd export wrote")
            }
            let count = output.shape.reduce(1, *)
            return output.view(as: Float.self).withUnsafePointer { start, _, _ in
                Array(UnsafeBufferPointer(start: start, count: count))
            }
        }
    }

    @available(iOS 27, macOS 27, *)
    extension MLComputeUnits {
        fileprivate var specialization: SpecializationOptions {
            switch self {
            case .cpuOnly: .cpuOnly
            case .cpuAndGPU: SpecializationOptions(preferredComputeUnitKind: .gpu)
            case .cpuAndNeuralEngine:
                SpecializationOptions(preferredComputeUnitKind: .neuralEngine)
            default: .default
            }
        }
    }
#endif
