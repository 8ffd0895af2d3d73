// A stub of published signatures, for compiling alone: it never runs.
package ai.onnxruntime;

import java.util.Map;
import java.util.Optional;

public class OrtSession implements AutoCloseable {
    OrtSession() {}

    public Result run(Map<String, ? extends OnnxTensorLike> inputs) throws OrtException {
        throw new UnsupportedOperationException("stub");
    }

    @Override
    public void close() throws OrtException {
        throw new UnsupportedOperationException("stub");
    }

    public static class SessionOptions implements AutoCloseable {
        public SessionOptions() {}

        public void setIntraOpNumThreads(int numThreads) throws OrtException {
            throw new UnsupportedOperationException("stub");
        }

        @Override
        public void close() {
            throw new UnsupportedOperationException("stub");
        }
    }

    public static class Result implements AutoCloseable {
        Result() {}

        public Optional<OnnxValue> get(String key) {
            throw new UnsupportedOperationException("stub");
        }

        @Override
        public void close() {
            throw new UnsupportedOperationException("stub");
        }
    }
}
