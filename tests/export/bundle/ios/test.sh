#!/bin/bash
# Builds the package of a bundle in a chroot with Swift, type-checks its Core ML part against stubs,
# and runs its tests as debug and as release: the optimizer shows undefined behaviour that a debug
# build hides.
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
cp -a "$BUNDLE"/{Package.swift,Sources} "$package"
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
    for module in CoreGraphics ImageIO CoreVideo CoreML; do
        run "${swiftc[@]}" -emit-module -module-name "$module" \
            -emit-module-path "$modules/$module.swiftmodule" "/swift/stubs/$module.swift"
    done
    run "${swiftc[@]}" -emit-module -emit-module-path "$modules/MsdDeploy.swiftmodule" \
        -c -o "$modules/MsdDeploy.o" -module-name MsdDeploy \
        Sources/MsdDeploy/{BundledModel,CoreMLRuntime,ImageIODecoder}.swift \
        .build/debug/MsdDeploy.build/DerivedSources/resource_bundle_accessor.swift
    # The README's examples: all but the test, whose macros need swift build.
    awk '/^```swift/ {inside = 1; next} /^## Test it/ {exit} /^```/ {inside = 0} inside' \
        "$BUNDLE/README.md" > "$package/$modules/Usage.swift"
    run "${swiftc[@]}" -c -o "$modules/Usage.o" -module-name Usage "$modules/Usage.swift"
    echo "Type-checked MsdDeploy and the README's examples against stubs."
}

strict=(-Xswiftc -warnings-as-errors)
run swift build --jobs 1 "${strict[@]}"
check_types
run swift test --jobs 1 --no-parallel "${strict[@]}"
run swift test --jobs 1 --no-parallel -c release -Xswiftc -enable-testing "${strict[@]}"
