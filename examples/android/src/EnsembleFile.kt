package ensemble

import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.json.JSONArray
import org.json.JSONObject

private const val NEWEST_VERSION = 2

/** The names of a signature's inputs and outputs. */
class Signature(val inputs: List<String>, val outputs: List<String>)

/**
 * What an app has to know about a file of `larq-ensemble convert --target litert`.
 *
 * It trusts the file: `larq-ensemble inspect --strict` verifies it when you build the app.
 *
 * @param bytes the file.
 * @throws IllegalArgumentException if it is no such file.
 */
class EnsembleFile(bytes: ByteArray) {
    private val buffer = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN)
    private val metadata: JSONObject

    /** The signatures by their keys. */
    val signatures: Map<String, Signature>

    init {
        require(bytes.size > 8 && String(bytes, 4, 4) == "TFL3") { "This is no .tflite file." }
        val model = Table(buffer.getInt(0))
        require(model.tables(1).all { it.string(1).isEmpty() }) {
            "This file has operators of Larq Compute Engine: convert it with --target litert."
        }
        val entry = requireNotNull(model.tables(6).find { it.string(0) == "larq_ensemble" }) {
            "This .tflite file is no ensemble that larq-ensemble converted."
        }
        metadata = JSONObject(model.tables(4)[entry.int(1)].string(0))
        require(metadata.getInt("version") <= NEWEST_VERSION) {
            "This file is from a newer larq-ensemble."
        }
        val rule = metadata.optJSONObject("cascade")?.getString("rule") ?: CASCADE_RULE
        require(rule == CASCADE_RULE) { "This class doesn't know the rule of the cascade: $rule." }
        signatures = model.tables(7).associate { each ->
            each.string(2) to Signature(each.tables(0).map { it.string(0) }, each.tables(1).map { it.string(0) })
        }
    }

    /** M, the number of members. */
    val members = metadata.getInt("members")

    /** (height, width, channels) of an image with values from 0 to 255. */
    val inputShape = numbers(metadata.getJSONArray("input_shape")).map { it!!.toInt() }

    /** A name for each class; null if the file has none. */
    val classNames = metadata.optJSONArray("class_names")?.let { names ->
        List(names.length()) { names.getString(it) }
    }

    /** How the members become a prediction. */
    val combination = Combination(
        metadata.getString("scheme"),
        metadata.optJSONArray("weights")?.let(::numbers)?.map { it!! },
        metadata.optJSONArray("temperatures")?.let(::numbers)?.map { it!! },
        metadata.optJSONObject("cascade")?.let { numbers(it.getJSONArray("thresholds")) }
    )

    /** Whether the shared trunk has a signature of its own, to run once for an image. */
    val hasTrunk = "prefix" in signatures

    /** The key of the signature that computes a member's logits. */
    fun key(member: Int): String {
        val prefix = if (hasTrunk) "rest" else "member"
        return when {
            "${prefix}_$member" in signatures -> "${prefix}_$member"
            hasTrunk -> "rest"
            else -> "serving_default"
        }
    }

    private fun numbers(values: JSONArray): List<Double?> =
        List(values.length()) { if (values.isNull(it)) null else values.getDouble(it) }

    /** A table of the flatbuffer; fields are given by their position in TFLite's schema. */
    private inner class Table(private val at: Int) {
        private val vtable = at - buffer.getInt(at)

        private fun position(field: Int): Int {
            val entry = 4 + 2 * field
            val isThere = entry < buffer.getShort(vtable)
            val offset = if (isThere) buffer.getShort(vtable + entry).toInt() and 0xffff else 0
            return if (offset == 0) 0 else at + offset
        }

        fun int(field: Int) = position(field).let { if (it == 0) 0 else buffer.getInt(it) }

        /** Start and length of a vector. */
        private fun span(field: Int): Pair<Int, Int> {
            val position = position(field)
            if (position == 0) return Pair(0, 0)
            val start = position + buffer.getInt(position)
            return Pair(start + 4, buffer.getInt(start))
        }

        fun string(field: Int): String {
            val (start, length) = span(field)
            return String(buffer.array(), start, length)
        }

        fun tables(field: Int): List<Table> {
            val (start, length) = span(field)
            return List(length) { (start + 4 * it).let { entry -> Table(entry + buffer.getInt(entry)) } }
        }
    }
}
