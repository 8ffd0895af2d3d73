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
            let version = process.operatingSystemVersionString
            return BenchmarkResult.Device(
                model: hardware(name),
                // "Version 26.1 (Build 23B85)", in the language of the app.
                system: "\(system) \(version.replacingOccurrences(of: "Version ", with: ""))",
                cores: process.activeProcessorCount)
        }

        private static func hardware(_ name: String) -> String {
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
