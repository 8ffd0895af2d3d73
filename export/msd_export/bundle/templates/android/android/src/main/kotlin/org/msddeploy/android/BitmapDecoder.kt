package org.msddeploy.android

import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.graphics.ColorSpace
import android.media.ExifInterface
import android.os.Build
import org.msddeploy.BundleException
import org.msddeploy.Decoder
import org.msddeploy.ImageSpec
import org.msddeploy.Picture

/**
 * Decodes image files with `BitmapFactory`, to the numbers that they store.
 *
 * The size is checked before the pixels are decoded. Close each image to free its bitmap, which
 * takes 4 bytes per pixel.
 *
 * PNG files of 8 bits a channel without a colour profile give the same pixels as in Python. Other
 * files may differ:
 * - JPEG and lossy WebP: by a few steps in a pixel, as between any two decoders.
 * - A colour profile or gamma other than sRGB, such as Display P3: Android 8 and 9 convert it to
 *   sRGB. Other versions give the stored numbers. CMYK, and profiles that Android cannot keep, are
 *   converted by any version.
 * - 16 bits a channel: rounded to 8 bits, and converted from the colour profile if there is one.
 * - HEIC, which Python refuses, and AVIF: Android decodes them from version 9 and 12 on and applies
 *   their orientation itself.
 * - TIFF, JPEG 2000, PPM and others that Python reads are refused. A truncated file may be decoded
 *   in part.
 * - The orientation of PNG and WebP files is read by newer versions of Android only, and that of
 *   XMP by none.
 *
 * @param image The preprocessing of the bundle, which limits the size.
 */
public class BitmapDecoder(private val image: ImageSpec) : Decoder {
    /**
     * Returns the stored pixels of a file, with the orientation that it states.
     *
     * @throws BundleException Android cannot decode the file, or the image has too many pixels, for
     *   the model or for the memory that is left.
     */
    override fun decode(file: ByteArray): Picture {
        val bounds = BitmapFactory.Options().apply { inJustDecodeBounds = true }
        BitmapFactory.decodeByteArray(file, 0, file.size, bounds)
        val type = bounds.outMimeType
        if (bounds.outWidth < 1 || bounds.outHeight < 1) throw undecodable()
        val options = BitmapFactory.Options().apply {
            inSampleSize = image.sampleSize(bounds.outWidth, bounds.outHeight, type == JPEG)
            inPreferredConfig = Bitmap.Config.ARGB_8888
            inPremultiplied = false
        }
        val bitmap = try {
            BitmapFactory.decodeByteArray(file, 0, file.size, options)
        } catch (error: OutOfMemoryError) {
            throw BundleException(
                "Image of ${bounds.outWidth} by ${bounds.outHeight} pixels: there is no memory for" +
                    " it. Pass it at a lower resolution.",
            )
        } ?: throw undecodable()
        keepStoredNumbers(bitmap)
        val orientation = if (type in UPRIGHT) 1 else orientation(file)
        return Picture(
            bitmap.width,
            bitmap.height,
            orientation,
            onClose = bitmap::recycle,
        ) { into, x, y, width, height ->
            bitmap.getPixels(into, 0, width, x, y, width, height)
        }
    }

    /**
     * Declares the pixels as sRGB. `BitmapFactory` leaves them in the profile of the file, from
     * which `getPixels` would convert them.
     */
    private fun keepStoredNumbers(bitmap: Bitmap) {
        if (Build.VERSION.SDK_INT < Build.VERSION_CODES.Q) return
        if (bitmap.config != Bitmap.Config.ARGB_8888 || bitmap.colorSpace == null) return
        bitmap.setColorSpace(ColorSpace.get(ColorSpace.Named.SRGB))
    }

    private fun orientation(file: ByteArray): Int = try {
        ExifInterface(file.inputStream())
            .getAttributeInt(ExifInterface.TAG_ORIENTATION, ExifInterface.ORIENTATION_NORMAL)
    } catch (error: Exception) {
        // Metadata never decides whether an image is read, whatever its parser throws.
        ExifInterface.ORIENTATION_NORMAL
    }

    private fun undecodable() = BundleException(
        "The image cannot be decoded by this version of Android. Pass a JPEG or PNG file.",
    )

    private companion object {
        const val JPEG = "image/jpeg"

        // Android turns these while it decodes them.
        val UPRIGHT = setOf("image/heif", "image/heic", "image/avif")
    }
}
