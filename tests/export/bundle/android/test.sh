#!/usr/bin/env bash
# Compiles the code of a bundle for Android with its tests, and runs these.
#
# KOTLIN: folder of the npm package kotlin-compiler.
# TEMPLATE: folder of the code, templates/android of msd_export.bundle.
# BUNDLE: folder that msd bundle --platform android wrote.
# SPEC: folder with labels.json and preprocess.json of its model, vectors/ of `msd vectors`, and
#   words.json and noise.json (see test_android.py).
# BUILD: folder for class files, and for benchmark.json, which the tests write.
set -euo pipefail
: "${KOTLIN:?}" "${TEMPLATE:?}" "${BUNDLE:?}" "${SPEC:?}" "${BUILD:?}"
cd "$(dirname "$0")"

libraries=$KOTLIN/lib/kotlin-stdlib.jar:$KOTLIN/lib/kotlin-test.jar
compile=(bash "$KOTLIN/bin/kotlinc" -Werror -progressive)
app=("${compile[@]}" -Xjdk-release=8)
library=("${app[@]}" -Xexplicit-api=strict)

mkdir -p "$BUILD/stubs"
"${library[@]}" -module-name core -d "$BUILD/core" "$BUNDLE/core/src/main/kotlin"
"${compile[@]}" -jvm-target 17 -module-name core-test -Xfriend-paths="$BUILD/core" \
    -cp "$BUILD/core:$libraries" -d "$BUILD/test" org
# What needs Android is compiled against stubs, with each runtime, and does not run here.
find stubs -name '*.java' -print0 | xargs -0 javac -Xlint:all -Werror --release 8 -d "$BUILD/stubs"
for runtime in onnx litert; do
    "${library[@]}" -module-name android -cp "$BUILD/core:$BUILD/stubs" -d "$BUILD/$runtime" \
        "$TEMPLATE/android/src/main/kotlin" "$TEMPLATE/runtimes/$runtime/src/main/kotlin"
done
"${app[@]}" -module-name example -cp "$BUILD/core:$BUILD/onnx:$BUILD/stubs" \
    -d "$BUILD/example" "$TEMPLATE/example/src/main/kotlin"
java -Xmx256m -Dmsddeploy.spec="$SPEC" -Dmsddeploy.build="$BUILD" \
    -Dmsddeploy.bundle="$BUNDLE/android/src/main/assets/model" \
    -cp "$BUILD/core:$BUILD/test:$libraries" org.msddeploy.MainKt
