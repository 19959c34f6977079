/* What `system.System` does with a step: how far it may go, where it leads, and what becomes of the multipliers. */
#include "_frame.h"
#include "_kernels.h"

enum { DX, DU, DNODES, STEP_PATH, STEP_END, SHIFT };
enum { NEW_X, NEW_U, NEW_NODES, NEW_SLACK, NEW_END_SLACK, PRIMAL };
enum { DP, DCOSTATES, STEP_Y, DMULTIPLIERS, DUAL };
enum { NEW_P, NEW_COSTATES, NEW_Y, NEW_NU, NEW_Z, RESULTS = NEW_Z + 4 };

/* Variables between bounds, of which each group has some at several points. */
typedef struct {
    const double *value, *bounds, *z;
    int points, width, inside; /* inside of the horizon, where the barrier's weight is μ, and not μ times its length */
} Bounded;

enum { SETS = 4 };

/* Controls, slacks of the path, slacks of the end, initial states: their values are given, or those of the point. */
static void list_bounded(const Frame *y, double *const *values, Bounded *all)
{
    double *const *q = y->point;
    const int points = y->N * y->s;
    double *const own[SETS] = {q[U], q[SLACK], q[END_SLACK], q[NODES]}, *const *at = values ? values : own;
    const Bounded sets[SETS] = {
        {at[0], q[CONTROLS], q[Z_CONTROLS], points, y->m, 1},
        {at[1], q[PATHS], q[Z_PATHS], points, y->e, 1},
        {at[2], q[ENDS], q[Z_ENDS], 1, y->k, 0},
        {at[3], q[STARTS], q[Z_STARTS], 1, y->v, 0},
    };
    memcpy(all, sets, sizeof sets);
}

static inline double greater(double a, double b) { return b > a ? b : a; } /* what is no number is ignored */

static inline double length(double worst, double share)
{
    const double most = share / (worst > DBL_MIN ? worst : DBL_MIN);
    return most < 1.0 ? most : 1.0;
}

/* ----------------------------------------------------------------------------------------------------------- room */

void reach(const Frame *y, double **moves, const double *share, double *alpha)
{
    Bounded all[SETS];
    list_bounded(y, NULL, all);
    memset(alpha, 0, sizeof(double) * y->G);
    for (int b = 0; b < SETS; b++) {
        const Bounded set = all[b];
        const size_t count = (size_t)set.points * y->G * set.width;
        size_t i = 0;
        for (int point = 0; point < set.points; point++)
            for (int g = 0; g < y->G; g++)
                for (int r = 0; r < set.width; r++, i++) {
                    const double move = moves[b][i];
                    alpha[g] = greater(alpha[g], -move / room(set.value[i] - set.bounds[i]));
                    alpha[g] = greater(alpha[g], move / room(set.bounds[count + i] - set.value[i]));
                }
    }
    for (int g = 0; g < y->G; g++)
        alpha[g] = length(alpha[g], share[g]);
}

PyObject *py_room(PyObject *self, PyObject *arguments)
{
    double *moves[SETS], *alpha[1];
    Frame y;
    int good = enter(&y, arguments, 2, (double **[]){moves, alpha}, (int[]){SETS, 1});
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        reach(&y, moves, y.mu, alpha[0]);
        Py_END_ALLOW_THREADS
    }
    return leave(&y, good);
}

/* ---------------------------------------------------------------------------------------------------------- shift */

/* to = from + α step, of arrays (points, G, width). */
static void along(int points, int G, int width, const double *from, const double *alpha, const double *step, double *to)
{
    size_t i = 0;
    for (int point = 0; point < points; point++)
        for (int g = 0; g < G; g++)
            for (int r = 0; r < width; r++, i++)
                to[i] = from[i] + alpha[g] * step[i];
}

void shift(const Frame *y, const double *alpha, double **d, double **out)
{
    double *const *q = y->point;
    const int points = y->N * y->s;
    along(points, y->G, y->v, q[X], alpha, d[DX], out[NEW_X]);
    along(points, y->G, y->m, q[U], alpha, d[DU], out[NEW_U]);
    along(y->N + 1, y->G, y->v, q[NODES], alpha, d[DNODES], out[NEW_NODES]);
    along(points, y->G, y->e, q[SLACK], alpha, d[STEP_PATH], out[NEW_SLACK]);
    along(1, y->G, y->k, q[END_SLACK], alpha, d[STEP_END], out[NEW_END_SLACK]);
}

PyObject *py_shift(PyObject *self, PyObject *arguments)
{
    double *d[SHIFT], *out[PRIMAL];
    Frame y;
    int good = enter(&y, arguments, 2, (double **[]){d, out}, (int[]){SHIFT, PRIMAL});
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        shift(&y, y.mu, d, out);
        Py_END_ALLOW_THREADS
    }
    return leave(&y, good);
}

/* -------------------------------------------------------------------------------------------------------- multipliers */

static inline double weight(const Frame *y, Bounded set, int g)
{
    return set.inside ? y->mu[g] : y->mu[g] * y->constants[DURATION][g];
}

/* Newton step of a barrier's multiplier: `away` is that of the slack. */
static inline double change(double z, double slack, double away, double mu) { return z / slack * -away + mu / slack - z; }

/* Multipliers of the elastic constraints stay inside (−ρ, ρ). */
static inline double ratio(double value, double move, double rho)
{
    return greater(move / (rho - value), -move / (rho + value));
}

void renew(
    const Frame *y, double **moves, double **values, double **d, const double *share, const double *alpha, double *spare, double **out
)
{
    const int G = y->G, points = y->N * y->s, e = y->e, k = y->k;
    double *const *c = y->constants, *const *q = y->point, *longest = spare, *elastic = spare + G;
    Bounded old[SETS], now[SETS];
    list_bounded(y, NULL, old);
    list_bounded(y, values, now);
    memset(spare, 0, sizeof(double) * 2 * G);
    for (int b = 0; b < SETS; b++) {
        const Bounded set = old[b];
        const size_t count = (size_t)set.points * G * set.width;
        size_t i = 0;
        for (int point = 0; point < set.points; point++)
            for (int g = 0; g < G; g++)
                for (int r = 0; r < set.width; r++, i++) {
                    const double mu = weight(y, set, g), move = moves[b][i];
                    const double below = room(set.value[i] - set.bounds[i]), above = room(set.bounds[count + i] - set.value[i]);
                    const double low = change(set.z[i], below, move, mu), high = change(set.z[count + i], above, -move, mu);
                    out[NEW_Z + b][i] = low, out[NEW_Z + b][count + i] = high;
                    longest[g] = greater(longest[g], greater(low / -set.z[i], high / -set.z[count + i]));
                }
    }
    for (int point = 0; e && point < points; point++)
        for (int g = 0; g < G; g++)
            for (int r = 0; r < e; r++) {
                const size_t place = ((size_t)point * G + g) * e + r;
                elastic[g] = greater(elastic[g], ratio(q[Y][place], d[STEP_Y][place], c[RHO_PATH][place]));
            }
    for (int g = 0; g < G; g++) {
        for (int r = 0; r < k; r++)
            elastic[g] = greater(elastic[g], ratio(q[NU][g * k + r], d[DMULTIPLIERS][g * k + r], c[RHO_END][g * k + r]));
        longest[g] = length(longest[g], share[g]);
        const double most = length(elastic[g], share[g]);
        elastic[g] = most < alpha[g] ? most : alpha[g];
    }
    for (int b = 0; b < SETS; b++) {
        const Bounded set = now[b];
        const size_t count = (size_t)set.points * G * set.width;
        for (int side = 0; side < 2; side++) {
            const size_t first = side * count;
            size_t i = 0;
            for (int point = 0; point < set.points; point++)
                for (int g = 0; g < G; g++)
                    for (int r = 0; r < set.width; r++, i++) {
                        const double away = set.value[i] - set.bounds[first + i];
                        const double pull = weight(y, set, g) / room(side ? -away : away);
                        double z = set.z[first + i] + longest[g] * out[NEW_Z + b][first + i];
                        z = z > pull / LOW || isnan(z) ? z : pull / LOW;
                        out[NEW_Z + b][first + i] = z < HIGH * pull || isnan(z) ? z : HIGH * pull;
                    }
        }
    }
    along(points, G, y->v, q[P], alpha, d[DP], out[NEW_P]);
    along(y->N + 1, G, y->v, q[COSTATES], alpha, d[DCOSTATES], out[NEW_COSTATES]);
    along(points, G, e, q[Y], elastic, d[STEP_Y], out[NEW_Y]);
    along(1, G, k, q[NU], elastic, d[DMULTIPLIERS], out[NEW_NU]);
}

PyObject *py_multipliers(PyObject *self, PyObject *arguments)
{
    double *moves[SETS], *values[SETS], *d[DUAL], *along[2], *out[RESULTS], *spare = NULL;
    Frame y;
    int good = enter(&y, arguments, 5, (double **[]){moves, values, d, along, out}, (int[]){SETS, SETS, DUAL, 2, RESULTS});
    if (good && !(spare = malloc(sizeof(double) * 2 * y.G))) {
        PyErr_NoMemory();
        good = 0;
    }
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        renew(&y, moves, values, d, along[0], along[1], spare, out);
        Py_END_ALLOW_THREADS
    }
    free(spare);
    return leave(&y, good);
}
