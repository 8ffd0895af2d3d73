package org.msddeploy.android

import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import java.nio.IntBuffer
import org.msddeploy.Bundle
import org.msddeploy.BundleException
import org.msddeploy.ModelInput
import org.msddeploy.ModelOutput
import org.msddeploy.Runtime
import org.tensorflow.lite.Interpreter
import org.tensorflow.lite.TensorFlowLite

internal fun openRuntime(bundle: Bundle): Runtime = LiteRtRuntime(bundle)

/**
 * Runs the model of a bundle on the CPU with LiteRT.
 *
 * Uses one thread: a model of this size has little work to share, and the other cores stay free for
 * the app.
 *
 * A text alone is given to the model's signature for it, which leaves out the image encoder. By its
 * source, LiteRT's Java API never frees the handles of that signature's tensors: each text alone
 * keeps some 0.5 kB of native memory until the process ends.
 *
 * Probabilities differ from those of other builds and processors: in float32 by some 1e-6, in int8
 * by up to some hundredths.
 *
 * @throws BundleException The model's file is damaged, or LiteRT cannot load it.
 */
public class LiteRtRuntime(bundle: Bundle) : Runtime {
    override val threads: Int = 1

    private val interpreter = wrapped {
        val options = Interpreter.Options().setNumThreads(threads)
        Interpreter(direct(bundle.read(bundle.model)), options)
    }
    private val hasTextSignature = wrapped { TEXT in interpreter.signatureKeys }
    private val classes = bundle.labels.names.size

    // LiteRT states the version of TensorFlow Lite that it is built from, and not its own.
    override val name: String =
        wrapped { "LiteRT (TensorFlow Lite ${TensorFlowLite.runtimeVersion()})" }

    override fun run(input: ModelInput): ModelOutput = wrapped {
        val inputs = HashMap<String, Any>()
        inputs["input_ids"] = IntBuffer.wrap(input.inputIds)
        inputs["attention_mask"] = IntBuffer.wrap(input.attentionMask)
        val isTextAlone = hasTextSignature && !input.isImagePresent
        if (!isTextAlone) {
            inputs["image"] = ByteBuffer.wrap(input.image)
            inputs["image_present"] = IntBuffer.wrap(intArrayOf(if (input.isImagePresent) 1 else 0))
        }
        val logits = FloatBuffer.allocate(classes)
        val probabilities = FloatBuffer.allocate(classes)
        val outputs = mapOf<String, Any>("logits" to logits, "probabilities" to probabilities)
        interpreter.runSignature(inputs, outputs, if (isTextAlone) TEXT else MAIN)
        ModelOutput(logits.array(), probabilities.array())
    }

    override fun close() {
        interpreter.close()
    }

    private companion object {
        const val MAIN = "serving_default"
        const val TEXT = "text"
        const val REMEDY = "Copy the whole bundle again, with its runtime.gradle.kts."

        /** Returns a copy outside of the Java heap, as LiteRT needs it. */
        fun direct(content: ByteArray): ByteBuffer =
            ByteBuffer.allocateDirect(content.size).order(ByteOrder.nativeOrder()).put(content)

        inline fun <T> wrapped(action: () -> T): T = try {
            action()
        } catch (error: IllegalArgumentException) {
            throw unusable(error)
        } catch (error: IllegalStateException) {
            throw unusable(error)
        }

        fun unusable(error: RuntimeException) =
            BundleException("The model cannot be run ($error). $REMEDY", error)
    }
}
