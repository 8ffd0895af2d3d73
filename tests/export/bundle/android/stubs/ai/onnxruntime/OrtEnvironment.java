// A stub of published signatures, for compiling alone: it never runs.
package ai.onnxruntime;

public class OrtEnvironment implements AutoCloseable {
    private OrtEnvironment() {}

    public static OrtEnvironment getEnvironment() {
        throw new UnsupportedOperationException("stub");
    }

    public String getVersion() {
        throw new UnsupportedOperationException("stub");
    }

    public OrtSession createSession(byte[] modelArray, OrtSession.SessionOptions options)
            throws OrtException {
        throw new UnsupportedOperationException("stub");
    }

    @Override
    public void close() {
        throw new UnsupportedOperationException("stub");
    }
}
