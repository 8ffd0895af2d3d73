#!/bin/bash
# Builds the package of a bundle in a chroot with Swift, as debug and as release, type-checks its
# Apple parts against stubs, and runs its tests as release: the optimizer shows undefined behaviour
# that a debug build hides. Writes benchmark.json, of a made-up runtime, into SPEC.
#
# ROOT: the chroot of setup.sh.
# BUNDLE: folder that msd bundle --platform ios wrote.
# SPEC: folder with labels.json and preprocess.json of its model, and vectors/ of `msd vectors`.
set -euo pipefail
: "${ROOT:?}" "${BUNDLE:?}" "${SPEC:?}"
here=$(cd "$(dirname "$0")" && pwd)

package=$ROOT/swift/MsdDeploy
rm -rf "$ROOT/swift"
mkdir -p "$package/Tests"
cp -a "$here/stubs" "$ROOT/swift/stubs"
cp -a "$BUNDLE"/{Package.swift,Sources,Example} "$package"
cp -a "$here/MsdDeployCoreTests" "$package/Tests"
sed -i 's/        .target(name: "MsdDeployCore"),/&\n        .testTarget(name: "MsdDeployCoreTests", dependencies: ["MsdDeployCore"]),/' \
    "$package/Package.swift"
cp -rL "$SPEC" "$package/Spec"

trap 'umount "$ROOT/proc"' EXIT
mount -t proc proc "$ROOT/proc"
run() {
    chroot "$ROOT" env -i HOME=/root LANG=C.UTF-8 \
        LD_LIBRARY_PATH=/usr/libexec/swift/lib/swift/linux:/usr/libexec/swift/lib/swift/host \
        PATH=/usr/libexec/swift/bin:/usr/bin:/bin \
        sh -c 'cd /swift/MsdDeploy && exec "$@"' sh "$@"
}

# Compiled and never linked: some errors of concurrency are only found behind the type checker.
check_types() {
    local modules=.build/stubs
    local swiftc=(swiftc -swift-version 6 -warnings-as-errors -parse-as-library -wmo
        -I "$modules" -I .build/debug/Modules)
    mkdir -p "$package/$modules"
    stub() {
        run "${swiftc[@]}" -emit-module -module-name "$1" \
            -emit-module-path "$modules/$1.swiftmodule" "/swift/stubs/$1.swift"
    }
    check_package() {
        run "${swiftc[@]}" -emit-module -emit-module-path "$modules/MsdDeploy.swiftmodule" \
            -c -o "$modules/MsdDeploy.o" -module-name MsdDeploy \
            Sources/MsdDeploy/{BundledModel,CoreAIRuntime,CoreMLRuntime,ImageIODecoder}.swift \
            Sources/MsdDeploy/ThisDevice.swift \
            .build/debug/MsdDeploy.build/DerivedSources/resource_bundle_accessor.swift
    }
    for module in CoreGraphics ImageIO CoreVideo CoreML Darwin; do stub "$module"; done
    check_package  # As an Xcode before 27 compiles it.
    for module in CoreAI SwiftUI PhotosUI UIKit; do stub "$module"; done
    check_package
    # The README's examples: all but the test, whose macros need swift build.
    awk '/^## / {skip = /^## Test it/} /^```swift/ {inside = !skip; next} /^```/ {inside = 0} inside' \
        "$BUNDLE/README.md" > "$package/$modules/Usage.swift"
    run "${swiftc[@]}" -c -o "$modules/Usage.o" -module-name Usage "$modules/Usage.swift"
    run "${swiftc[@]}" -c -o "$modules/Example.o" -module-name Example Example/ClassifierView.swift
    echo "Type-checked MsdDeploy, the README's examples and Example against stubs."
}

strict=(-Xswiftc -warnings-as-errors)
run swift build --jobs 1 "${strict[@]}"
check_types
run swift test --jobs 1 --no-parallel -c release -Xswiftc -enable-testing "${strict[@]}"
cp "$package/Spec/benchmark.json" "$SPEC"
