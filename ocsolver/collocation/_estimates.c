/* What `fine.between` and `errors.estimate` compute between the points of a method: trajectories at Q fractions of every
   interval, better controls there, what they gain, and what all of it sums up to. Formulas are those of the NumPy functions
   of the same names; points stand in the order (N, Q, G).
*/
#include "_frame.h"
#include "_kernels.h"

enum { AT_ENDS, AT_SLOPES, AT_INNER, TABLES };
enum { IN_X, IN_U, IN_P, IN_NODES, IN_COSTATES, IN_Y, INSIDE };
enum { FINE_X, FINE_P, FINE_U, FINE_Y, FINE_RATE, FINE };
enum { WEIGHT_P, WEIGHT_Y, WEIGHTED };
enum { OWN_F, OWN_RUNNING, OWN_C, OWN_JACOBIAN, OWN_HESSIAN, OWN };
enum { LOWER, UPPER, SIDES };

#define CONVEX 1e-9 /* curvature of H that counts as convex, slope that counts as rising: as in `errors` */
#define RISING 1e-4
#define LARGE 100.0
#define LEAST 1e-12 /* eigenvalue of −∂²H/∂u² by which H counts as concave */

static int axis(const Frame *y, int buffer, int which) { return (int)y->buffers[buffer].shape[which]; }

/* Σ of rows of `width` numbers, each with its weight: the left node, s points, the right node; nodes may be none. */
static void combine(
    const double *weights, int s, const double *left, const double *inner, const double *right, size_t width, double *restrict out
)
{
    memset(out, 0, width * sizeof(double));
    for (int j = left ? -1 : 0; j < (right ? s + 1 : s); j++) {
        const double *row = j < 0 ? left : j < s ? inner + j * width : right, weight = *weights++;
        for (size_t i = 0; i < width; i++)
            out[i] += weight * row[i];
    }
}

PyObject *py_between(PyObject *self, PyObject *arguments)
{
    Frame y;
    double *tables[TABLES], *h[1], *in[INSIDE], *limits[SIDES], *out[FINE];
    const int counts[] = {TABLES, 1, INSIDE, SIDES, FINE};
    int good = take_all(&y, arguments, 5, (double **[]){tables, h, in, limits, out}, counts);
    if (good) {
        const int x = TABLES + 1, Q = axis(&y, 0, 0), wide = axis(&y, 0, 1);
        const int N = axis(&y, x, 0), s = axis(&y, x, 1), G = axis(&y, x, 2), v = axis(&y, x, 3);
        const int m = axis(&y, x + IN_U, 3), e = axis(&y, x + IN_Y, 3), open = wide == s + 2;
        const size_t states = (size_t)G * v, controls = (size_t)G * m, rows = (size_t)G * e;
        for (int n = 0; n < N; n++)
            for (int q = 0; q < Q; q++) {
                const size_t at = (size_t)n * Q + q;
                for (int dual = 0; dual < 2; dual++) {
                    const double *node = in[dual ? IN_COSTATES : IN_NODES] + n * states;
                    const double *inner = in[dual ? IN_P : IN_X] + n * s * states, *last = open ? node + states : NULL;
                    combine(tables[AT_ENDS] + q * wide, s, node, inner, last, states, out[dual ? FINE_P : FINE_X] + at * states);
                    if (!dual)
                        combine(tables[AT_SLOPES] + q * wide, s, node, inner, last, states, out[FINE_RATE] + at * states);
                }
                for (int g = 0; g < G; g++)
                    for (int r = 0; r < v; r++)
                        out[FINE_RATE][at * states + (size_t)g * v + r] /= h[0][n * G + g];
                double *u = out[FINE_U] + at * controls;
                combine(tables[AT_INNER] + q * s, s, NULL, in[IN_U] + n * s * controls, NULL, controls, u);
                for (int g = 0; g < G; g++)
                    for (int r = 0; r < m; r++)
                        u[g * m + r] = clipped(u[g * m + r], limits[LOWER][r], limits[UPPER][r]);
                combine(tables[AT_INNER] + q * s, s, NULL, in[IN_Y] + n * s * rows, NULL, rows, out[FINE_Y] + at * rows);
            }
    }
    return leave(&y, good);
}

/* Whether a symmetric matrix (m, m) with its diagonal lowered is positive definite; its factor if it is. */
static int factored(const double *matrix, double lowered, int m, double *factor)
{
    for (int i = 0; i < m; i++)
        for (int j = 0; j <= i; j++) {
            double value = matrix[i * m + j] - (i == j ? lowered : 0.0);
            for (int l = 0; l < j; l++)
                value -= factor[i * m + l] * factor[j * m + l];
            if (i == j && !(value > 0.0))
                return 0;
            factor[i * m + j] = i == j ? sqrt(value) : value / factor[j * m + j];
        }
    return 1;
}

static void solved(const double *factor, int m, double *b)
{
    for (int i = 0; i < m; i++) {
        for (int l = 0; l < i; l++)
            b[i] -= factor[i * m + l] * b[l];
        b[i] /= factor[i * m + i];
    }
    for (int i = m - 1; i >= 0; i--) {
        for (int l = i + 1; l < m; l++)
            b[i] -= factor[l * m + i] * b[l];
        b[i] /= factor[i * m + i];
    }
}

/* Better controls, and `best`: inf where H has no maximum in a control without bounds, else no number. */
PyObject *py_better(PyObject *self, PyObject *arguments)
{
    Frame y;
    double *weights[WEIGHTED], *own[OWN], *u[1], *limits[SIDES], *out[2], *work = NULL;
    const int counts[] = {WEIGHTED, OWN, 1, SIDES, 2};
    int good = take_all(&y, arguments, 5, (double **[]){weights, own, u, limits, out}, counts);
    if (good) {
        const int v = axis(&y, 0, 3), e = axis(&y, 1, 3), m = axis(&y, WEIGHTED + OWN, 3), D = v + m, G = axis(&y, 0, 2);
        const size_t points = (size_t)axis(&y, 0, 0) * axis(&y, 0, 1) * G;
        work = malloc((2 * (size_t)m * m + 2 * m + G) * sizeof(double));
        if (!work) {
            PyErr_NoMemory();
            return leave(&y, 0);
        }
        double *matrix = work, *factor = matrix + (size_t)m * m, *slope = factor + (size_t)m * m, *step = slope + m, *bent = step + m;
        memset(bent, 0, G * sizeof(double));
        for (size_t at = 0; at < points; at++)
            for (int i = v; i < D; i++)
                bent[at % G] = larger(bent[at % G], fabs(own[OWN_HESSIAN][(at * D + i) * D + i]));
        for (size_t at = 0; at < points; at++) {
            const double *J = own[OWN_JACOBIAN] + at * (v + 1 + e) * D, *B = own[OWN_HESSIAN] + at * D * D, *now = u[0] + at * m;
            const double flat = CONVEX * (1.0 + bent[at % G]), steep = RISING * (1.0 + fabs(own[OWN_RUNNING][at]));
            double most = 0.0, size = 0.0;
            int endless = 0;
            for (int i = 0; i < m; i++) {
                slope[i] = -weighted(J, weights[WEIGHT_P] + at * v, weights[WEIGHT_Y] + at * e, v, e, D, v + i);
                const double bend = B[(v + i) * D + v + i];
                const int up = isinf(limits[UPPER][i]), down = isinf(limits[LOWER][i]);
                endless |= (bend < -flat && (up || down)) ||
                           (fabs(bend) <= flat && ((slope[i] > steep && up) || (slope[i] < -steep && down)));
                most = larger(most, fabs(bend));
            }
            for (int i = 0; i < m; i++)
                step[i] = (now[i] <= limits[LOWER][i] && slope[i] < 0) || (now[i] >= limits[UPPER][i] && slope[i] > 0);
            for (int i = 0; i < m; i++)
                for (int j = 0; j < m; j++) {
                    const int free = step[i] == 0.0 && step[j] == 0.0;
                    matrix[i * m + j] = (free ? B[(v + i) * D + v + j] : i == j) + (i == j ? 1e-14 * most : 0.0);
                    size = larger(size, fabs(matrix[i * m + j]));
                }
            const int concave = factored(matrix, LEAST * (size > 1e-300 ? size : 1e-300), m, factor) && factored(matrix, 0.0, m, factor);
            for (int i = 0; i < m; i++) {
                const int held = step[i] != 0.0;
                const double target = slope[i] > 0 ? limits[UPPER][i] : limits[LOWER][i];
                step[i] = concave ? (held ? 0.0 : slope[i]) : !held && isfinite(target) && slope[i] != 0 ? target : now[i];
            }
            if (concave)
                solved(factor, m, step);
            for (int i = 0; i < m; i++)
                out[0][at * m + i] = concave ? clipped(now[i] + step[i], limits[LOWER][i], limits[UPPER][i]) : step[i];
            out[1][at] = endless ? INFINITY : NAN;
        }
    }
    free(work);
    return leave(&y, good);
}

/* The best gain so far, and what other controls gain: there may be several at every point, one set after the other. */
PyObject *py_gain(PyObject *self, PyObject *arguments)
{
    Frame y;
    double *weights[WEIGHTED], *own[3], *other[3], *best[1];
    const int counts[] = {WEIGHTED, 3, 3, 1};
    int good = take_all(&y, arguments, 4, (double **[]){weights, own, other, best}, counts);
    if (good) {
        const int v = axis(&y, 0, 3), e = axis(&y, 1, 3);
        const size_t points = (size_t)axis(&y, 0, 0) * axis(&y, 0, 1) * axis(&y, 0, 2);
        const size_t sets = points ? y.buffers[WEIGHTED + 3 + 1].len / sizeof(double) / points : 0;
        for (size_t k = 0; k < sets; k++)
            for (size_t at = 0; at < points; at++) {
                const size_t there = k * points + at;
                double gain = own[OWN_RUNNING][at] - other[OWN_RUNNING][there];
                for (int r = 0; r < v; r++)
                    gain += weights[WEIGHT_P][at * v + r] * (other[OWN_F][there * v + r] - own[OWN_F][at * v + r]);
                for (int r = 0; r < e; r++)
                    gain -= weights[WEIGHT_Y][at * e + r] * (other[OWN_C][there * e + r] - own[OWN_C][at * e + r]);
                best[0][at] = fmax(best[0][at], gain);
            }
    }
    return leave(&y, good);
}

/* Sums over the points of each interval: of the defects, of the gaps, and the largest distance of the controls. */
PyObject *py_summed(PyObject *self, PyObject *arguments)
{
    Frame y;
    double *weights[2], *costates[1], *own[3], *u[2], *best[1], *limits[SIDES], *out[3];
    const int counts[] = {2, 1, 3, 2, 1, SIDES, 3};
    int good = take_all(&y, arguments, 7, (double **[]){weights, costates, own, u, best, limits, out}, counts);
    if (good) {
        const double *h = weights[0], *b = weights[1], *p = costates[0], *f = own[0], *running = own[1], *rate = own[2];
        const int N = axis(&y, 2, 0), Q = axis(&y, 2, 1), G = axis(&y, 2, 2), v = axis(&y, 2, 3), m = axis(&y, 6, 3);
        for (int n = 0; n < N; n++)
            for (int g = 0; g < G; g++) {
                double defect = 0.0, gap = 0.0, distance = 0.0;
                int inside = 1;
                for (int q = 0; q < Q; q++) {
                    const size_t at = ((size_t)n * Q + q) * G + g;
                    const double w = h[n * G + g] * b[q], gain = best[0][at];
                    double excess = running[at];
                    for (int r = 0; r < v; r++)
                        excess += p[at * v + r] * (rate[at * v + r] - f[at * v + r]);
                    defect += w * excess;
                    gap += w * (gain > 0.0 || isnan(gain) ? gain : 0.0);
                    for (int i = 0; i < m; i++) {
                        const double now = u[0][at * m + i], new = u[1][at * m + i], size = fabs(now) / LARGE;
                        const double low = limits[LOWER][i], high = limits[UPPER][i];
                        inside &= now > low && now < high && new > low && new < high;
                        distance = larger(distance, fabs(new - now) / (size > 1.0 ? size : 1.0));
                    }
                }
                out[0][n * G + g] = defect, out[1][n * G + g] = gap, out[2][n * G + g] = inside ? distance : 0.0;
            }
    }
    return leave(&y, good);
}

/* Largest violation of constraints at the points of each interval, relative to bounds that are larger than 1. */
PyObject *py_violated(PyObject *self, PyObject *arguments)
{
    Frame y;
    double *values[1], *limits[SIDES], *out[1];
    const int counts[] = {1, SIDES, 1};
    int good = take_all(&y, arguments, 3, (double **[]){values, limits, out}, counts);
    if (good) {
        const int N = axis(&y, 0, 0), Q = axis(&y, 0, 1), G = axis(&y, 0, 2), e = axis(&y, 0, 3);
        for (int n = 0; n < N; n++)
            for (int g = 0; g < G; g++) {
                double worst = 0.0;
                for (int q = 0; q < Q; q++)
                    for (int r = 0; r < e; r++) {
                        const double c = values[0][(((size_t)n * Q + q) * G + g) * e + r];
                        for (int side = 0; side < 2; side++) {
                            const double bound = limits[side][r], size = fabs(bound);
                            if (isfinite(bound))
                                worst = fmax(worst, (side ? c - bound : bound - c) / (size > 1.0 ? size : 1.0));
                        }
                    }
                out[0][n * G + g] = worst;
            }
    }
    return leave(&y, good);
}
