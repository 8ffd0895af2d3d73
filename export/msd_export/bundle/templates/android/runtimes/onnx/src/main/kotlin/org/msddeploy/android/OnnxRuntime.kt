package org.msddeploy.android

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtSession
import java.nio.ByteBuffer
import java.nio.IntBuffer
import org.msddeploy.Bundle
import org.msddeploy.BundleException
import org.msddeploy.ModelInput
import org.msddeploy.ModelOutput
import org.msddeploy.Runtime

internal fun openRuntime(bundle: Bundle): Runtime = OnnxRuntime(bundle)

/**
 * Runs the model of a bundle on the CPU with ONNX Runtime.
 *
 * Uses one thread: a model of this size has little work to share, and the other cores stay free for
 * the app.
 *
 * Probabilities differ from those of other builds and processors: in float32 by some 1e-6, in int8
 * by up to some hundredths.
 *
 * @throws BundleException The model's file is damaged, or ONNX Runtime cannot load it.
 */
public class OnnxRuntime(bundle: Bundle) : Runtime {
    override val threads: Int = 1

    // One for the whole process: other sessions of the app may use it, so it is never closed.
    private val environment = OrtEnvironment.getEnvironment()
    override val name: String = "ONNX Runtime ${environment.version}"

    private val imageShape =
        longArrayOf(1, bundle.image.height.toLong(), bundle.image.width.toLong(), 3)

    // Closed after its session, as its documentation demands.
    private val options = OrtSession.SessionOptions()
    private val session = try {
        wrapped {
            options.setIntraOpNumThreads(threads)
            environment.createSession(bundle.read(bundle.model), options)
        }
    } catch (error: Throwable) {
        options.close()
        throw error
    }

    override fun run(input: ModelInput): ModelOutput = wrapped {
        val tensors = LinkedHashMap<String, OnnxTensor>()
        try {
            // Buffers on the Java heap: each tensor copies its own.
            val image = ByteBuffer.wrap(input.image)
            tensors["image"] =
                OnnxTensor.createTensor(environment, image, imageShape, OnnxJavaType.UINT8)
            val isPresent = intArrayOf(if (input.isImagePresent) 1 else 0)
            tensors["image_present"] = tensor(isPresent, 1)
            tensors["input_ids"] = tensor(input.inputIds, 1, input.inputIds.size)
            tensors["attention_mask"] = tensor(input.attentionMask, 1, input.attentionMask.size)
            session.run(tensors).use { result ->
                ModelOutput(floats(result, "logits"), floats(result, "probabilities"))
            }
        } finally {
            tensors.values.forEach(OnnxTensor::close)
        }
    }

    override fun close() {
        options.use { wrapped { session.close() } }
    }

    private fun tensor(values: IntArray, vararg shape: Int): OnnxTensor {
        val sides = LongArray(shape.size) { shape[it].toLong() }
        return OnnxTensor.createTensor(environment, IntBuffer.wrap(values), sides)
    }

    private fun floats(result: OrtSession.Result, name: String): FloatArray {
        val tensor = result.get(name).orElse(null) as? OnnxTensor
        val buffer = tensor?.floatBuffer
            ?: throw BundleException("The model has no output $name of float32. $REMEDY")
        return FloatArray(buffer.remaining()).also { buffer.get(it) }
    }

    private companion object {
        const val REMEDY = "Copy the whole bundle again, with its runtime.gradle.kts."

        inline fun <T> wrapped(action: () -> T): T = try {
            action()
        } catch (error: OrtException) {
            throw BundleException("The model cannot be run ($error). $REMEDY", error)
        }
    }
}
