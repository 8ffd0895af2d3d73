// A stub for type-checking alone: signatures of Apple's CoreML as far as MsdDeploy uses them.
// Nothing here runs.
//
// Classes are not Sendable here, whether or not Apple's are: code that compiles so compiles there.
import CoreVideo
import Foundation

public enum MLComputeUnits: Int, Sendable {
    case cpuOnly, cpuAndGPU, all, cpuAndNeuralEngine
}

open class MLModelConfiguration: NSObject {
    open var computeUnits: MLComputeUnits {
        get { fatalError() }
        set { fatalError() }
    }
}

public enum MLMultiArrayDataType: Int, Sendable {
    case double = 65600
    case float32 = 65568
    case float16 = 65552
    case int32 = 131104
}

open class MLMultiArray: NSObject {
    public init(shape: [NSNumber], dataType: MLMultiArrayDataType) throws { fatalError() }
    open var count: Int { fatalError() }
    open subscript(idx: Int) -> NSNumber {
        get { fatalError() }
        set { fatalError() }
    }
}

open class MLFeatureValue: NSObject {
    public convenience init(pixelBuffer value: CVPixelBuffer) { fatalError() }
    public convenience init(multiArray value: MLMultiArray) { fatalError() }
    open var multiArrayValue: MLMultiArray? { fatalError() }
}

public protocol MLFeatureProvider: NSObjectProtocol {
    var featureNames: Set<String> { get }
    func featureValue(for featureName: String) -> MLFeatureValue?
}

open class MLDictionaryFeatureProvider: NSObject, MLFeatureProvider {
    public init(dictionary: [String: Any]) throws { fatalError() }
    open var featureNames: Set<String> { fatalError() }
    open func featureValue(for featureName: String) -> MLFeatureValue? { fatalError() }
}

open class MLModel: NSObject {
    public convenience init(
        contentsOf url: URL, configuration: MLModelConfiguration
    ) throws { fatalError() }
    public class func compileModel(at modelURL: URL) async throws -> URL { fatalError() }
    open func prediction(
        from input: any MLFeatureProvider
    ) throws -> any MLFeatureProvider { fatalError() }
}
