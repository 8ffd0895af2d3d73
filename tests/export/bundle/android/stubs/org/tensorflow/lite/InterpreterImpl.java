// A stub of published signatures, for compiling alone: it never runs.
package org.tensorflow.lite;

import java.util.Map;

class InterpreterImpl implements InterpreterApi {
    @Override
    public void runSignature(
            Map<String, Object> inputs, Map<String, Object> outputs, String signatureKey) {
        throw new UnsupportedOperationException("stub");
    }

    @Override
    public String[] getSignatureKeys() {
        throw new UnsupportedOperationException("stub");
    }

    @Override
    public void close() {
        throw new UnsupportedOperationException("stub");
    }

    static class Options extends InterpreterApi.Options {
        public Options() {}
    }
}
