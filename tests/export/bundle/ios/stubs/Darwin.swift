// A stub for type-checking alone: signatures of Apple's Darwin as far as MsdDeploy uses them, and
// the properties of ProcessInfo that Foundation has on Apple's systems only. Nothing here runs.
import Foundation

@discardableResult
public func sysctlbyname(
    _ name: UnsafePointer<CChar>!, _ oldp: UnsafeMutableRawPointer!,
    _ oldlenp: UnsafeMutablePointer<Int>!, _ newp: UnsafeMutableRawPointer!, _ newlen: Int
) -> Int32 { fatalError() }

extension ProcessInfo {
    /// Apple's enumeration is not frozen: `later` stands for the cases of later systems.
    public enum ThermalState: Int, Sendable {
        case nominal, fair, serious, critical, later
    }

    public var thermalState: ThermalState { fatalError() }
    public var isLowPowerModeEnabled: Bool { fatalError() }
}
