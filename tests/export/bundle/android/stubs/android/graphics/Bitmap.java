// A stub of published signatures, for compiling alone: it never runs.
package android.graphics;

public final class Bitmap {
    public enum Config { ARGB_8888 }

    private Bitmap() {}

    public static Bitmap createBitmap(int[] colors, int width, int height, Config config) {
        throw new UnsupportedOperationException("stub");
    }

    public int getWidth() {
        throw new UnsupportedOperationException("stub");
    }

    public int getHeight() {
        throw new UnsupportedOperationException("stub");
    }

    public Config getConfig() {
        throw new UnsupportedOperationException("stub");
    }

    public ColorSpace getColorSpace() {
        throw new UnsupportedOperationException("stub");
    }

    public void setColorSpace(ColorSpace colorSpace) {
        throw new UnsupportedOperationException("stub");
    }

    public void getPixels(
            int[] pixels, int offset, int stride, int x, int y, int width, int height) {
        throw new UnsupportedOperationException("stub");
    }

    public void recycle() {
        throw new UnsupportedOperationException("stub");
    }
}
