// A stub of published signatures, for compiling alone: it never runs.
package android.media;

import java.io.IOException;
import java.io.InputStream;

public class ExifInterface {
    public static final String TAG_ORIENTATION = "Orientation";
    public static final int ORIENTATION_NORMAL = 1;

    public ExifInterface(InputStream inputStream) throws IOException {
        throw new UnsupportedOperationException("stub");
    }

    public int getAttributeInt(String tag, int defaultValue) {
        throw new UnsupportedOperationException("stub");
    }
}
