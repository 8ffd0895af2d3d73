// A stub for type-checking alone: signatures of Apple's CoreAI, as developer.apple.com has them, as
// far as MsdDeploy uses them. Nothing here runs.
//
// `Span` is of Swift 6.2: `StubSpan` stands in for it, and views may outlive their array here.
// Apple's InferenceValue is ~Copyable, which Swift 6.0.3 cannot compile in a chain of optionals.
import Foundation

public struct StubSpan<Element> {
    public var count: Int { fatalError() }
    public subscript(position: Int) -> Element { fatalError() }
}

public struct AIModel: Sendable {
    public init(
        contentsOf modelURL: URL, options: SpecializationOptions = .default
    ) async throws { fatalError() }
    public func loadFunction(named functionName: String) throws -> InferenceFunction? {
        fatalError()
    }
}

public enum ComputeUnitKind: Hashable, Sendable {
    case cpu, gpu, neuralEngine
}

public struct SpecializationOptions: Sendable {
    public static let `default` = SpecializationOptions(preferredComputeUnitKind: .cpu)
    public static let cpuOnly = SpecializationOptions(preferredComputeUnitKind: .cpu)
    public init(preferredComputeUnitKind: ComputeUnitKind) { fatalError() }
}

public struct InferenceFunction: Sendable {
    public struct MutableViews: ~Copyable {
        public init() { fatalError() }
    }

    public struct Outputs: ~Copyable {
        public mutating func remove(_ outputName: String) -> InferenceValue? { fatalError() }
    }

    public func run(
        inputs: [String: NDArray], states: consuming MutableViews = MutableViews(),
        outputViews: consuming MutableViews = MutableViews()
    ) async throws -> Outputs { fatalError() }
}

public struct InferenceValue {
    public var ndArray: NDArray? { fatalError() }
}

public struct NDArray: Sendable {
    public enum ScalarType: Hashable, Sendable {
        case float16, float32, int32, uint8
    }

    public struct View<Element: BitwiseCopyable>: ~Copyable {
        public func withUnsafePointer<R, E: Error>(
            _ body: (UnsafePointer<Element>, StubSpan<Int>, StubSpan<Int>) throws(E) -> R
        ) throws(E) -> R { fatalError() }
    }

    public struct MutableView<Element: BitwiseCopyable>: ~Copyable {
        public func withUnsafeMutablePointer<R, E: Error>(
            _ body: (UnsafeMutablePointer<Element>, StubSpan<Int>, StubSpan<Int>) throws(E) -> R
        ) throws(E) -> R { fatalError() }
    }

    public init(shape: [Int], scalarType: ScalarType) { fatalError() }
    public var shape: [Int] { fatalError() }
    public var scalarType: ScalarType { fatalError() }
    public func view<T: BitwiseCopyable>(as type: T.Type = T.self) -> View<T> { fatalError() }
    public mutating func mutableView<T: BitwiseCopyable>(
        as type: T.Type = T.self
    ) -> MutableView<T> { fatalError() }
}
