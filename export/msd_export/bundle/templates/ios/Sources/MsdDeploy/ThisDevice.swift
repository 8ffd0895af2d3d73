#if canImport(Darwin)
    import Darwin
    import Foundation
    import MsdDeployCore

    extension BenchmarkResult.Device {
        /// The device that runs this code.
        public static var current: BenchmarkResult.Device {
            #if os(macOS)
                let (name, system) = ("hw.model", "macOS")
            #else
                let (name, system) = ("hw.machine", "iOS")
            #endif
            let process = ProcessInfo.processInfo
            // Not operatingSystemVersionString, which is in the language of the app.
            let version = process.operatingSystemVersion
            let patch = version.patchVersion == 0 ? "" : ".\(version.patchVersion)"
            let numbers = "\(version.majorVersion).\(version.minorVersion)\(patch)"
            return BenchmarkResult.Device(
                model: kernelText(name),
                system: "\(system) \(numbers) (Build \(kernelText("kern.osversion")))",
                cores: process.activeProcessorCount)
        }

        private static func kernelText(_ name: String) -> String {
            var size = 0
            sysctlbyname(name, nil, &size, nil, 0)
            var bytes = [UInt8](repeating: 0, count: size)
            sysctlbyname(name, &bytes, &size, nil, 0)
            return String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
        }
    }

    extension BenchmarkResult.Conditions {
        /// The state of the device now.
        public static var current: BenchmarkResult.Conditions {
            let process = ProcessInfo.processInfo
            let thermal: Thermal? =
                switch process.thermalState {
                case .nominal: .nominal
                case .fair: .fair
                case .serious: .serious
                case .critical: .critical
                default: nil
                }
            return BenchmarkResult.Conditions(
                thermal: thermal, isLowPower: process.isLowPowerModeEnabled)
        }
    }
#endif
