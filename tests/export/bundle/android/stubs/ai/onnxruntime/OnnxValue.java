// A stub of published signatures, for compiling alone: it never runs.
package ai.onnxruntime;

public interface OnnxValue extends AutoCloseable {
    @Override
    void close();
}
