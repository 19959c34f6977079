/* What `fine.between` and `errors.estimate` compute between the points of a method: trajectories at Q fractions of every
   interval, better controls there, what they gain, and what all of it sums up to. Formulas are those of the NumPy functions
   of the same names; points stand in the order (N, Q, G).
*/
#include "../tape/_tape.h"
#include "_frame.h"
#include "_kernels.h"

enum { AT_ENDS, AT_SLOPES, AT_INNER, TABLES };
enum { IN_X, IN_U, IN_P, IN_NODES, IN_COSTATES, IN_Y, INSIDE };
enum { FINE_X, FINE_P, FINE_U, FINE_Y, FINE_RATE, FINE };
enum { WEIGHT_P, WEIGHT_Y, WEIGHTED };
enum { OWN_F, OWN_RUNNING, OWN_C, OWN_JACOBIAN, OWN_HESSIAN, OWN };
enum { LOWER, UPPER, SIDES };
enum { DEFECT, GAP, DISTANCE, VIOLATION, LAST, TOTAL, RAISED, FARTHEST, WORST, RESULTS };
enum { VALUES, DERIVATIVES, TAPES };
enum { OTHER_F, OTHER_RUNNING, OTHER_C, OTHER };

#define CONVEX 1e-9 /* curvature of H that counts as convex, slope that counts as rising: as in `errors` */
#define RISING 1e-4
#define LARGE 100.0
#define FEW 8
#define LEAST 1e-12 /* eigenvalue of −∂²H/∂u² by which H counts as concave */

/* N intervals, s Gauss points of each and Q others, G groups, v states, m controls, D = v + m, e path constraints. */
typedef struct {
    int N, s, Q, G, v, m, e, D;
} Sizes;

static int axis(const Frame *y, int buffer, int which) { return (int)y->buffers[buffer].shape[which]; }

/* Sizes from the first of the arrays inside and from what Q fractions of an interval are. */
static Sizes sizes_of(const Frame *y, int x, int Q)
{
    const int v = axis(y, x, 3), m = axis(y, x + IN_U, 3);
    return (Sizes){axis(y, x, 0), axis(y, x, 1), Q, axis(y, x, 2), v, m, axis(y, x + IN_Y, 3), v + m};
}

static size_t points_of(Sizes y) { return (size_t)y.N * y.Q * y.G; }

/* Σ of rows of `width` numbers, each with its weight: the left node, s points, the right node; nodes may be none. Few
   numbers are summed up one by one, many row by row. */
static void combine(
    const double *weights, int s, const double *left, const double *inner, const double *right, size_t width, double *restrict out
)
{
    if (width < FEW) {
        for (size_t i = 0; i < width; i++) {
            const double *w = weights, *row = inner + i;
            double sum = left ? *w++ * left[i] : 0.0;
            for (int j = 0; j < s; j++, row += width)
                sum += *w++ * *row;
            out[i] = right ? sum + *w * right[i] : sum;
        }
        return;
    }
    memset(out, 0, width * sizeof(double));
    for (int j = left ? -1 : 0; j < (right ? s + 1 : s); j++) {
        const double *row = j < 0 ? left : j < s ? inner + j * width : right, weight = *weights++;
        for (size_t i = 0; i < width; i++)
            out[i] += weight * row[i];
    }
}

/* States, costates, controls, path multipliers and rates at Q fractions of every interval; tables are `wide`. */
static void interpolate(
    Sizes y, int wide, double *const *tables, const double *h, double *const *in, double *const *limits, double *const *out
)
{
    const size_t states = (size_t)y.G * y.v, controls = (size_t)y.G * y.m, rows = (size_t)y.G * y.e;
    const int s = y.s, open = wide == s + 2;
    for (int n = 0; n < y.N; n++)
        for (int q = 0; q < y.Q; q++) {
            const size_t at = (size_t)n * y.Q + q;
            for (int dual = 0; dual < 2; dual++) {
                const double *node = in[dual ? IN_COSTATES : IN_NODES] + n * states;
                const double *inner = in[dual ? IN_P : IN_X] + n * s * states, *last = open ? node + states : NULL;
                combine(tables[AT_ENDS] + q * wide, s, node, inner, last, states, out[dual ? FINE_P : FINE_X] + at * states);
                if (!dual)
                    combine(tables[AT_SLOPES] + q * wide, s, node, inner, last, states, out[FINE_RATE] + at * states);
            }
            for (int g = 0; g < y.G; g++)
                for (int r = 0; r < y.v; r++)
                    out[FINE_RATE][at * states + (size_t)g * y.v + r] /= h[n * y.G + g];
            double *u = out[FINE_U] + at * controls;
            combine(tables[AT_INNER] + q * s, s, NULL, in[IN_U] + n * s * controls, NULL, controls, u);
            for (int g = 0; g < y.G; g++)
                for (int r = 0; r < y.m; r++)
                    u[g * y.m + r] = clipped(u[g * y.m + r], limits[LOWER][r], limits[UPPER][r]);
            combine(tables[AT_INNER] + q * s, s, NULL, in[IN_Y] + n * s * rows, NULL, rows, out[FINE_Y] + at * rows);
        }
}

PyObject *py_between(PyObject *self, PyObject *arguments)
{
    Frame y;
    double *tables[TABLES], *h[1], *in[INSIDE], *limits[SIDES], *out[FINE];
    const int counts[] = {TABLES, 1, INSIDE, SIDES, FINE};
    int good = take_all(&y, arguments, 5, (double **[]){tables, h, in, limits, out}, counts);
    if (good)
        interpolate(sizes_of(&y, TABLES + 1, axis(&y, 0, 0)), axis(&y, 0, 1), tables, h[0], in, limits, out);
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

/* Better controls, and `best`: inf where H has no maximum in a control without bounds, else no number; there is room for
   2 m² + 2 m + G numbers. */
static void improve(
    Sizes y, double *const *weights, double *const *own, const double *u, double *const *limits, double *room, double *better, double *best
)
{
    const int v = y.v, e = y.e, m = y.m, D = y.D, G = y.G;
    const size_t points = points_of(y);
    double *matrix = room, *factor = matrix + (size_t)m * m, *slope = factor + (size_t)m * m, *step = slope + m, *bent = step + m;
    memset(bent, 0, G * sizeof(double));
    for (size_t at = 0; at < points; at++)
        for (int i = v; i < D; i++)
            bent[at % G] = larger(bent[at % G], fabs(own[OWN_HESSIAN][(at * D + i) * D + i]));
    for (size_t at = 0; at < points; at++) {
        const double *J = own[OWN_JACOBIAN] + at * (v + 1 + e) * D, *B = own[OWN_HESSIAN] + at * D * D, *now = u + at * m;
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
            better[at * m + i] = concave ? clipped(now[i] + step[i], limits[LOWER][i], limits[UPPER][i]) : step[i];
        best[at] = endless ? INFINITY : NAN;
    }
}

static size_t room_of(Sizes y) { return 2 * (size_t)y.m * y.m + 2 * y.m + y.G; }

PyObject *py_better(PyObject *self, PyObject *arguments)
{
    Frame y;
    double *weights[WEIGHTED], *own[OWN], *u[1], *limits[SIDES], *out[2], *room = NULL;
    const int counts[] = {WEIGHTED, OWN, 1, SIDES, 2};
    int good = take_all(&y, arguments, 5, (double **[]){weights, own, u, limits, out}, counts);
    if (good) {
        const int v = axis(&y, 0, 3), m = axis(&y, WEIGHTED + OWN, 3);
        const Sizes sizes = {axis(&y, 0, 0), 0, axis(&y, 0, 1), axis(&y, 0, 2), v, m, axis(&y, 1, 3), v + m};
        good = (room = malloc(room_of(sizes) * sizeof(double))) != NULL;
        if (good)
            improve(sizes, weights, own, u[0], limits, room, out[0], out[1]);
        else
            PyErr_NoMemory();
    }
    free(room);
    return leave(&y, good);
}

/* The best gain so far, if it is no more than that of other controls. */
static void raise_best(Sizes y, double *const *weights, double *const *own, double *const *other, double *best)
{
    const size_t points = points_of(y);
    for (size_t at = 0; at < points; at++) {
        double gain = own[OWN_RUNNING][at] - other[OTHER_RUNNING][at];
        for (int r = 0; r < y.v; r++)
            gain += weights[WEIGHT_P][at * y.v + r] * (other[OTHER_F][at * y.v + r] - own[OWN_F][at * y.v + r]);
        for (int r = 0; r < y.e; r++)
            gain -= weights[WEIGHT_Y][at * y.e + r] * (other[OTHER_C][at * y.e + r] - own[OWN_C][at * y.e + r]);
        best[at] = fmax(best[at], gain);
    }
}

/* Sums over the points of each interval: of the defects, of the gaps, and the largest distance of the controls. */
static void sum_up(
    Sizes y, const double *h, const double *b, double *const *fine, double *const *own, const double *better, const double *best,
    double *const *limits, double **out
)
{
    for (int n = 0; n < y.N; n++)
        for (int g = 0; g < y.G; g++) {
            double defect = 0.0, gap = 0.0, distance = 0.0;
            int inside = 1;
            for (int q = 0; q < y.Q; q++) {
                const size_t at = ((size_t)n * y.Q + q) * y.G + g;
                const double w = h[n * y.G + g] * b[q], gain = best[at];
                double excess = own[OWN_RUNNING][at];
                for (int r = 0; r < y.v; r++)
                    excess += fine[FINE_P][at * y.v + r] * (fine[FINE_RATE][at * y.v + r] - own[OWN_F][at * y.v + r]);
                defect += w * excess;
                gap += w * (gain > 0.0 || isnan(gain) ? gain : 0.0);
                for (int i = 0; i < y.m; i++) {
                    const double now = fine[FINE_U][at * y.m + i], new = better[at * y.m + i], size = fabs(now) / LARGE;
                    const double low = limits[LOWER][i], high = limits[UPPER][i];
                    inside &= now > low && now < high && new > low && new < high;
                    distance = larger(distance, fabs(new - now) / (size > 1.0 ? size : 1.0));
                }
            }
            out[DEFECT][n * y.G + g] = defect, out[GAP][n * y.G + g] = gap, out[DISTANCE][n * y.G + g] = inside ? distance : 0.0;
        }
}

/* How far constraints are violated at a point, relative to bounds that are larger than 1. */
static double excess_of(Sizes y, const double *c, double *const *bounds)
{
    double worst = 0.0;
    for (int r = 0; r < y.e; r++)
        for (int side = 0; side < 2; side++) {
            const double bound = bounds[side][r], size = fabs(bound);
            if (isfinite(bound))
                worst = fmax(worst, (side ? c[r] - bound : bound - c[r]) / (size > 1.0 ? size : 1.0));
        }
    return worst;
}

/* The largest violations of each interval; those at its last point are of the end in the last interval. */
static void violations(Sizes y, const double *c, double *const *bounds, int both_ends, double *const *out)
{
    for (int n = 0; n < y.N; n++)
        for (int g = 0; g < y.G; g++) {
            double *worst = &out[VIOLATION][n * y.G + g], last = 0.0;
            for (int q = 0; q < y.Q; q++) {
                last = excess_of(y, c + (((size_t)n * y.Q + q) * y.G + g) * y.e, bounds);
                *worst = larger(*worst, last);
            }
            if (both_ends && n == y.N - 1)
                out[LAST][g] = last;
        }
}

/* The values of a tape that differs from the derivatives by what it leaves out. */
static void values_at(const Tape *tape, Sizes y, const double *t, double *const *fine, const double *u, double *const *out)
{
    const Rows in[] = {{(double *)t, 1}, {fine[FINE_X], y.v}, {(double *)u, y.m}};
    run_tape(tape, (Py_ssize_t)points_of(y), 3, in, 3, (Rows[]){{out[OTHER_F], y.v}, {out[OTHER_RUNNING], 1}, {out[OTHER_C], y.e}});
}

static void times_at(Sizes y, const double *nodes, const double *h, const double *c, double *t)
{
    for (int n = 0; n < y.N; n++)
        for (int q = 0; q < y.Q; q++)
            for (int g = 0; g < y.G; g++)
                *t++ = nodes[n * y.G + g] + h[n * y.G + g] * c[q];
}

/* What the estimates of all intervals come to. */
static void conclude(Sizes y, double *const *out)
{
    for (int g = 0; g < y.G; g++) {
        double defects = 0.0, raised = 0.0, farthest = 0.0, worst = 0.0;
        for (int n = 0; n < y.N; n++) {
            const size_t at = (size_t)n * y.G + g;
            defects += fabs(out[DEFECT][at]), raised += out[GAP][at];
            farthest = larger(farthest, out[DISTANCE][at]), worst = larger(worst, out[VIOLATION][at]);
        }
        out[TOTAL][g] = defects + raised, out[RAISED][g] = raised, out[FARTHEST][g] = farthest, out[WORST][g] = worst;
    }
}

/* All estimates of `errors.estimate`, of functions that are recorded; candidates are a grid of controls, or none. */
PyObject *py_estimate(PyObject *self, PyObject *arguments)
{
    enum { T, LENGTHS, W, STAGE_TIMES, MESH };
    Frame y;
    Tape tapes[TAPES] = {0};
    double *rule[2], *tables[TABLES], *ends[TABLES], *mesh[4], *in[INSIDE], *limits[SIDES], *bounds[SIDES], *grid[1], *out[RESULTS], *memory = NULL;
    const int counts[] = {2, TABLES, TABLES, MESH, INSIDE, SIDES, SIDES, 1, RESULTS};
    if (PyTuple_Size(arguments) != 10) {
        PyErr_SetString(PyExc_TypeError, "expected 10 arguments");
        return NULL;
    }
    PyObject *arrays = PyTuple_GetSlice(arguments, 0, 9), *programs = PyTuple_GetItem(arguments, 9);
    if (!arrays)
        return NULL;
    int good = take_all(&y, arrays, 9, (double **[]){rule, tables, ends, mesh, in, limits, bounds, grid, out}, counts);
    good = good && open_tapes(tapes, programs, TAPES);
    if (good) {
        const int first = 2 + 2 * TABLES + MESH, wide = axis(&y, 2, 1), candidates = axis(&y, first + INSIDE + 2 * SIDES, 0);
        const Sizes z = sizes_of(&y, first, axis(&y, 2, 0));
        const size_t v = z.v, m = z.m, e = z.e, D = z.D, points = points_of(z), stages = (size_t)z.N * z.s * z.G;
        const size_t most = points > stages ? points : stages;
        const size_t widths[] = {v, v, m, e, v, v, 1, e, (v + 1 + e) * D, D * D, v, 1, e, m, m, 1, 1};
        enum { PARTS = sizeof widths / sizeof *widths };
        double *part[PARTS], **fine = part, **own = part + FINE, **other = own + OWN, **rest = other + OTHER;
        size_t all = room_of(z);
        for (int i = 0; i < PARTS; i++)
            all += most * widths[i];
        good = (memory = malloc(all * sizeof(double))) != NULL;
        if (!good)
            PyErr_NoMemory();
        else {
            double *place = memory + room_of(z), *weights[] = {NULL, NULL};
            for (int i = 0; i < PARTS; place += most * widths[i++])
                part[i] = place;
            double *better = rest[0], *u = rest[1], *best = rest[2], *t = rest[3];
            weights[WEIGHT_P] = fine[FINE_P], weights[WEIGHT_Y] = fine[FINE_Y];
            Py_BEGIN_ALLOW_THREADS
            times_at(z, mesh[T], mesh[LENGTHS], rule[0], t);
            interpolate(z, wide, tables, mesh[LENGTHS], in, limits, fine);
            run_tape(
                &tapes[DERIVATIVES], (Py_ssize_t)points, 5,
                (Rows[]){{t, 1}, {fine[FINE_X], v}, {fine[FINE_U], m}, {fine[FINE_P], v}, {fine[FINE_Y], e}}, 5,
                (Rows[]){{own[OWN_F], v}, {own[OWN_RUNNING], 1}, {own[OWN_C], e}, {own[OWN_JACOBIAN], (v + 1 + e) * D}, {own[OWN_HESSIAN], D * D}}
            );
            improve(z, weights, own, fine[FINE_U], limits, memory, better, best);
            values_at(&tapes[VALUES], z, t, fine, better, other);
            raise_best(z, weights, own, other, best);
            for (int k = 0; k < candidates; k++) {
                for (size_t i = 0; i < points * m; i++)
                    u[i] = grid[0][k * m + i % m];
                values_at(&tapes[VALUES], z, t, fine, u, other);
                raise_best(z, weights, own, other, best);
            }
            for (int k = 0; k < (candidates ? 0 : 2 * (int)m); k++) {
                const double bound = limits[k % 2][k / 2];
                if (!isfinite(bound))
                    continue;
                memcpy(u, fine[FINE_U], points * m * sizeof(double));
                for (size_t at = 0; at < points; at++)
                    u[at * m + k / 2] = bound;
                values_at(&tapes[VALUES], z, t, fine, u, other);
                raise_best(z, weights, own, other, best);
            }
            sum_up(z, mesh[LENGTHS], rule[1], fine, own, better, best, limits, out);
            memset(out[VIOLATION], 0, (size_t)z.N * z.G * sizeof(double));
            memset(out[LAST], 0, z.G * sizeof(double));
            violations(z, own[OWN_C], bounds, 0, out);
            const Rows inside[] = {{mesh[STAGE_TIMES], 1}, {in[IN_X], v}, {in[IN_U], m}};
            run_tape(&tapes[VALUES], (Py_ssize_t)stages, 3, inside, 3, (Rows[]){{other[OTHER_F], v}, {other[OTHER_RUNNING], 1}, {other[OTHER_C], e}});
            for (size_t at = 0; at < stages; at++)
                out[DEFECT][at / ((size_t)z.s * z.G) * z.G + at % z.G] -= mesh[W][at] * other[OTHER_RUNNING][at];
            if (e) { /* at the nodes, too, where polynomials that meet constraints at all Gauss points may swing */
                Sizes nodes = z;
                nodes.Q = 2;
                times_at(nodes, mesh[T], mesh[LENGTHS], (double[]){0.0, 1.0}, t);
                interpolate(nodes, wide, ends, mesh[LENGTHS], in, limits, fine);
                values_at(&tapes[VALUES], nodes, t, fine, fine[FINE_U], other);
                violations(nodes, other[OTHER_C], bounds, 1, out);
            }
            conclude(z, out);
            Py_END_ALLOW_THREADS
        }
    }
    free(memory);
    close_tapes(tapes, TAPES);
    Py_DECREF(arrays);
    return leave(&y, good);
}
