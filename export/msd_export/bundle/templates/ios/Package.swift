// swift-tools-version: 6.0
import PackageDescription

let package = Package(
    name: "MsdDeploy",
    platforms: [.iOS(.v16), .macOS(.v13)],
    products: [
        .library(name: "MsdDeploy", targets: ["MsdDeploy"]),
        .library(name: "MsdDeployCore", targets: ["MsdDeployCore"]),
    ],
    targets: [
        .target(
            name: "MsdDeploy", dependencies: ["MsdDeployCore"],
            // Copied, not processed: Xcode would compile the model and drop the file that
            // manifest.json lists.
            resources: [.copy("Resources/model"), .copy("PrivacyInfo.xcprivacy")]),
        .target(name: "MsdDeployCore"),
    ],
    swiftLanguageModes: [.v6]
)
