// The library that runs the model. A script that is applied has no access to the version catalog.
// LiteRT 1.4.0 needs Android 8, and 2.0 has no class Interpreter.
dependencies {
    "implementation"("com.google.ai.edge.litert:litert:1.4.2")
}
