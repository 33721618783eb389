package ensemble

import kotlin.math.exp
import kotlin.math.ln
import kotlin.math.max

/** The smallest normal float32: a higher floor would change tiny probabilities. */
private const val TINY = 1.17549435e-38

private val MEAN_OF_LOGITS = setOf("fusion", "nested_fusion", "sampled_nested_fusion")
private val SUM_OF_LOGITS = setOf("boosting", "soft_boosting")
private const val SHARE_OF_VOTES = "hard_voting"

/** The rule of the cascades that `Combination` can run, as the metadata name it. */
internal const val CASCADE_RULE = "log_margin"

/**
 * Combines the members' logits into a prediction, as `larq_ensemble.runtime.combination` does.
 *
 * @param scheme how members are combined.
 * @param weights a weight for each member; null: all equal.
 * @param temperatures for each number of members, what calibrates its prediction; null: nothing.
 * @param thresholds of the adaptive cascade, for 1 to M - 1 members; null: it is not fitted. A null
 *     in the list: so many members are never enough.
 */
class Combination(
    private val scheme: String,
    private val weights: List<Double>?,
    private val temperatures: List<Double>?,
    private val thresholds: List<Double?>?
) {
    val hasCascade = thresholds != null

    /** Probabilities of the classes, from the logits of the first members. */
    fun predict(logits: List<FloatArray>): DoubleArray {
        val rows = logits.map { row -> DoubleArray(row.size) { row[it].toDouble() } }
        val each = weights ?: List(rows.size) { 1.0 }
        val exact = when (scheme) {
            in MEAN_OF_LOGITS -> softmax(mean(rows, each))
            in SUM_OF_LOGITS -> softmax(weightedSum(rows, each))
            SHARE_OF_VOTES -> mean(rows.map(::vote), each)
            else -> mean(rows.map(::softmax), each)
        }
        val probabilities = exact.map { it.toFloat().toDouble() }.toDoubleArray() // so ties are ties
        val temperature = temperatures?.get(rows.size - 1) ?: return probabilities
        return softmax(probabilities.map { score(it) / temperature }.toDoubleArray())
    }

    /** Whether the cascade stops: the two likeliest classes' log margin reaches the threshold. */
    fun isConfident(probabilities: DoubleArray, members: Int): Boolean {
        val threshold = thresholds?.getOrNull(members - 1) ?: return false
        val first = largestIndex(probabilities)
        val others = probabilities.filterIndexed { k, _ -> k != first }.toDoubleArray()
        val second = if (others.isEmpty()) probabilities[first] else others[largestIndex(others)]
        return ln(max(probabilities[first], TINY)) - ln(max(second, TINY)) >= threshold
    }

    private fun score(probability: Double) =
        if (scheme == SHARE_OF_VOTES) probability else ln(max(probability, TINY))
}

private fun softmax(row: DoubleArray): DoubleArray {
    val largest = row[largestIndex(row)]
    val powers = DoubleArray(row.size) { exp(row[it] - largest) }
    val sum = powers.sum()
    return DoubleArray(row.size) { powers[it] / sum }
}

private fun weightedSum(rows: List<DoubleArray>, weights: List<Double>) =
    DoubleArray(rows[0].size) { k -> rows.indices.map { weights[it] * rows[it][k] }.sum() }

private fun mean(rows: List<DoubleArray>, weights: List<Double>): DoubleArray {
    val total = weights.take(rows.size).sum()
    return weightedSum(rows, weights).map { it / total }.toDoubleArray()
}

private fun vote(row: DoubleArray): DoubleArray {
    val choice = largestIndex(row)
    return DoubleArray(row.size) { if (it == choice) 1.0 else 0.0 }
}

/** The index of the largest value; of equal ones the lowest. */
internal fun largestIndex(row: DoubleArray): Int {
    var best = 0
    for (k in row.indices) if (row[k] > row[best]) best = k
    return best
}
