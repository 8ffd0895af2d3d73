// The library that runs the model. A script that is applied has no access to the version catalog.
dependencies {
    "implementation"("com.microsoft.onnxruntime:onnxruntime-android:1.29.0")
}
