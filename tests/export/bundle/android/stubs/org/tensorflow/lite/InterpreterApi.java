// A stub of published signatures, for compiling alone: it never runs.
package org.tensorflow.lite;

import java.util.Map;

public interface InterpreterApi extends AutoCloseable {
    void runSignature(Map<String, Object> inputs, Map<String, Object> outputs, String signatureKey);

    String[] getSignatureKeys();

    @Override
    void close();

    class Options {
        public Options() {}

        public Options setNumThreads(int numThreads) {
            throw new UnsupportedOperationException("stub");
        }
    }
}
