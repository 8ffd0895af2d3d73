#!/usr/bin/env bash
# Compiles the code of a bundle for Android with its tests, and runs these.
#
# KOTLIN: folder of the npm package kotlin-compiler.
# BUNDLE: folder that msd bundle --platform android wrote.
# SPEC: folder with labels.json and preprocess.json of its model, vectors/ of `msd vectors`, and
#   words.json and noise.json (see test_android.py).
# BUILD: folder for class files.
set -euo pipefail
: "${KOTLIN:?}" "${BUNDLE:?}" "${SPEC:?}" "${BUILD:?}"
cd "$(dirname "$0")"

libraries=$KOTLIN/lib/kotlin-stdlib.jar:$KOTLIN/lib/kotlin-test.jar
compile=(bash "$KOTLIN/bin/kotlinc" -Werror -progressive)
library=(-Xexplicit-api=strict -Xjdk-release=8)

mkdir -p "$BUILD/stubs"
"${compile[@]}" "${library[@]}" -module-name core -d "$BUILD/core" "$BUNDLE/core/src/main/kotlin"
"${compile[@]}" -jvm-target 17 -module-name core-test -Xfriend-paths="$BUILD/core" \
    -cp "$BUILD/core:$libraries" -d "$BUILD/test" org
# The Android module is compiled against stubs, and does not run here.
find stubs -name '*.java' -print0 | xargs -0 javac -Xlint:all -Werror --release 8 -d "$BUILD/stubs"
"${compile[@]}" "${library[@]}" -module-name android -cp "$BUILD/core:$BUILD/stubs" \
    -d "$BUILD/android" "$BUNDLE/android/src/main/kotlin"
java -Xmx256m -Dmsddeploy.spec="$SPEC" \
    -Dmsddeploy.bundle="$BUNDLE/android/src/main/assets/model" \
    -cp "$BUILD/core:$BUILD/test:$libraries" org.msddeploy.MainKt
