/* An iteration of the interior-point method as it mostly goes, in two calls: from a model to the first trial of its step,
   and from the values there to the next model. Where something is unusual they say so, and `interior.Walk` looks into it.
*/
#include "_frame.h"
#include "_kernels.h"

/* ---------------------------------------------------------------------------------------------------------- launch */

enum { JACOBIAN, HESSIAN, RIGHT, BACK, GRADIENT, PULL, AIM, STAGE, GAP, PATH, TERMINAL, END_SLOPE, END_JACOBIAN, END_HESSIAN, MODEL };
enum { ACTIVE, CURVED, SHORT, BOUNDARY, SHRINK, GROW, LAUNCH };
enum { DX, DU, DP, DNODES, DCOSTATES, DMULTIPLIERS, STEP_PATH, STEP_Y, STEP_END, SLOPE, BEND, LENGTH, REACH, ALPHA_, STEP };
enum { NEW_X, NEW_U, NEW_P, NEW_NODES, NEW_COSTATES, NEW_SLACK, NEW_Y, NEW_END_SLACK, NEW_NU, NEW_Z, NEW = NEW_Z + 4 };

/* Room for what a Newton system has on its right, and for two numbers of each group twice. */
static double *divided(const Frame *y, double **equations, double **stage, double **gap, double **groups)
{
    const size_t points = (size_t)y->N * y->s * y->G, ends = (size_t)y->G * y->v, last = (size_t)y->G * y->k;
    const size_t sizes[] = {points * y->e, points * y->D, ends, ends, ends, last, ends, last};
    const size_t stages = points * y->v, gaps = (size_t)y->N * y->G * y->v;
    size_t all = stages + gaps + 4 * (size_t)y->G;
    for (int i = 0; i < 8; i++)
        all += sizes[i];
    double *memory = malloc(sizeof(double) * all), *place = memory;
    for (int i = 0; memory && i < 8; place += sizes[i++])
        equations[i] = place;
    if (memory)
        *stage = place, *gap = place + stages, *groups = place + stages + gaps;
    return memory;
}

/* Newton step, how far it may go, and where it leads: 1 if it is regular and not cut short by bounds, else 0; −1 if there
   is no memory. */
static int launch(const Frame *y, double **own, double **rules, double **d, double **new, int clocked)
{
    const int N = y->N, s = y->s, G = y->G, v = y->v;
    double *const *c = y->constants, *const *q = y->point;
    double *right[8], *stage, *gap, *groups, *memory = divided(y, right, &stage, &gap, &groups);
    char *active = malloc((size_t)G);
    int good = memory && active ? 0 : -1;
    if (good < 0)
        goto done;
    double *share = groups + 2 * G, *first = groups + 3 * G; /* before them what `renew` needs */
    for (int g = 0; g < G; g++)
        active[g] = rules[ACTIVE][g] != 0.0;
    if (!y->e)
        right[1] = own[RIGHT];
    arrange(
        y,
        (double *[]){own[JACOBIAN], own[RIGHT], own[PULL], own[AIM], own[PATH], own[END_SLOPE], own[END_JACOBIAN], own[PATH], own[TERMINAL]},
        right
    );
    for (size_t i = 0; i < (size_t)N * s * G * v; i++)
        stage[i] = -own[STAGE][i];
    for (size_t i = 0; i < (size_t)N * G * v; i++)
        gap[i] = -own[GAP][i];
    const int found = newton_step(
        (int[]){N, s, G, v, y->m, y->k}, (double *[]){c[ALPHA], c[ADJOINT], c[ROW], c[D_], c[B_]},
        (double *[]){c[H], own[HESSIAN], own[JACOBIAN], right[1], stage, gap, own[BACK]}, v + 1 + y->e,
        (double *[]){right[2], right[3], right[4], own[END_HESSIAN], own[END_JACOBIAN], right[5], right[6], right[7]}, active, d
    );
    good = found;
    if (found <= 0)
        goto done;
    meaning(
        y,
        (double *[]){own[JACOBIAN], own[HESSIAN], own[GRADIENT], own[PULL], right[0], own[PATH], own[TERMINAL], own[END_SLOPE], own[END_JACOBIAN], own[END_HESSIAN]},
        (double *[]){d[DX], d[DU], d[DNODES], d[DMULTIPLIERS]},
        (double *[]){d[STEP_PATH], d[STEP_Y], d[STEP_END], d[SLOPE], d[BEND], d[LENGTH], d[REACH]}
    );
    double *moves[] = {d[DU], d[STEP_PATH], d[STEP_END], d[DNODES]};
    for (int g = 0; g < G; g++) {
        share[g] = larger(rules[BOUNDARY][0], 1.0 - y->mu[g] * c[DURATION][g] / c[SIZE][g]);
        good = good && (!active[g] || d[BEND][g] >= rules[CURVED][0] * d[LENGTH][g] * c[SIZE][g]);
    }
    reach(y, moves, share, d[ALPHA_]);
    for (int g = 0; g < G; g++) {
        if (clocked) {
            const double T = q[NODES][g * v + v - 1], dT = d[DNODES][g * v + v - 1];
            const double most = larger(-dT / (rules[SHRINK][0] * T), dT / (rules[GROW][0] * T));
            const double own_most = most > 1.0 ? 1.0 / most : isnan(most) ? most : 1.0;
            if (!(d[ALPHA_][g] < own_most))
                d[ALPHA_][g] = own_most;
        }
        good = good && !(active[g] && d[ALPHA_][g] < rules[SHORT][0]);
    }
    if (!good)
        goto done;
    for (int g = 0; g < G; g++) {
        first[g] = active[g] ? d[ALPHA_][g] : 0.0;
        share[g] = active[g] ? share[g] : 0.0;
    }
    shift(
        y, first, (double *[]){d[DX], d[DU], d[DNODES], d[STEP_PATH], d[STEP_END]},
        (double *[]){new[NEW_X], new[NEW_U], new[NEW_NODES], new[NEW_SLACK], new[NEW_END_SLACK]}
    );
    renew(
        y, moves, (double *[]){new[NEW_U], new[NEW_SLACK], new[NEW_END_SLACK], new[NEW_NODES]},
        (double *[]){d[DP], d[DCOSTATES], d[STEP_Y], d[DMULTIPLIERS]}, share, first, groups,
        (double *[]){new[NEW_P], new[NEW_COSTATES], new[NEW_Y], new[NEW_NU], new[NEW_Z], new[NEW_Z + 1], new[NEW_Z + 2], new[NEW_Z + 3]}
    );
done:
    free(memory), free(active);
    return good;
}

static PyObject *answered(Frame *frame, int entered, int good)
{
    if (entered && good < 0)
        PyErr_NoMemory();
    PyObject *none = leave(frame, entered && good >= 0);
    if (!none)
        return NULL;
    Py_DECREF(none);
    return PyBool_FromLong(good);
}

PyObject *py_launch(PyObject *self, PyObject *arguments)
{
    double *own[MODEL], *rules[LAUNCH], *step[STEP], *new[NEW];
    Frame y;
    int good = 0, entered = enter(&y, arguments, 4, (double **[]){own, rules, step, new}, (int[]){MODEL, LAUNCH, STEP, NEW});
    if (entered) {
        const int clocked = rules[SHRINK][0] > 0.0;
        Py_BEGIN_ALLOW_THREADS
        good = launch(&y, own, rules, step, new, clocked);
        Py_END_ALLOW_THREADS
    }
    return answered(&y, entered, good);
}

/* ---------------------------------------------------------------------------------------------------------- arrive */

enum { F, RUNNING, C, Q_JACOBIAN, Q_HESSIAN, END_COST, END_C, Q_END_SLOPE, Q_END_JACOBIAN, VALUES };
enum { THETA, PHI, B_SLOPE, B_ALPHA, B_REACH, MOST_THETA, FILTER, STRAIGHT, ARMIJO, MARGIN, B_ACTIVE, BEFORE };
enum { R_STAGE, R_GAP, R_PATH, R_TERMINAL, R_THETA, R_PHI, RESIDUAL };
enum { M_BENT, M_SLOPE, M_ADJOINT, M_RIGHT, M_BACK, M_GRADIENT, M_PULL, M_AIM, M_DUAL, M_PRIMAL, M_GAP, M_BOUGHT, M_FRESH, NEXT };

/* Whether a trial passes the filter and stays near to the linearization, as in `Walk._search` and `Walk._acceptable`; if it
   does, but not by the rule of Armijo, it is `fresh`. */
static int passes(const Frame *y, double **before, int corners, double *const *now, int g, double *fresh)
{
    const double theta = now[R_THETA][g], phi = now[R_PHI][g], old = before[THETA][g], size = y->constants[SIZE][g];
    const double slope = before[B_SLOPE][g], alpha = before[B_ALPHA][g], margin = before[MARGIN][0];
    const double noise = 1e-13 * (fabs(before[PHI][g]) + size), shrunk = margin * old;
    int armijo = 0, better = theta <= old - shrunk || phi <= before[PHI][g] - shrunk + noise;
    if (old <= 1e-4 * (old > 1.0 ? old : 1.0)) {
        const int switching = slope < 0.0 && alpha * pow(-slope / size, 2.3) > pow(old, 1.1);
        armijo = switching && phi <= before[PHI][g] + before[ARMIJO][0] * alpha * slope + noise;
        better = (switching ? armijo : better) || (theta <= 1e-12 && old <= 1e-12 && phi <= before[PHI][g] + noise);
    }
    *fresh = armijo ? 0.0 : 1.0;
    int good = better && isfinite(theta + phi) && theta <= before[MOST_THETA][g];
    good = good && theta <= (1.0 - alpha) * old + before[STRAIGHT][0] * alpha * before[B_REACH][g] + 1e-12;
    for (int k = 0; good && k < corners; k++)
        good = !(theta >= before[FILTER][k * y->G + g] && phi >= before[FILTER][(corners + k) * y->G + g]);
    return good;
}

PyObject *py_arrive(PyObject *self, PyObject *arguments)
{
    double *q[VALUES], *before[BEFORE], *now[RESIDUAL], *next[NEXT];
    Frame y;
    int good = 1, entered = enter(&y, arguments, 4, (double **[]){q, before, now, next}, (int[]){VALUES, BEFORE, RESIDUAL, NEXT});
    if (entered) {
        const int corners = (int)y.buffers[CONSTANTS + POINT + 1 + VALUES + FILTER].shape[1];
        Py_BEGIN_ALLOW_THREADS
        measure(&y, (double *[]){q[F], q[RUNNING], q[C]}, (double *[]){q[END_COST], q[END_C]}, now);
        for (int g = 0; g < y.G; g++) {
            next[M_FRESH][g] = 0.0;
            if (before[B_ACTIVE][g] != 0.0)
                good = passes(&y, before, corners, now, g, &next[M_FRESH][g]) && good;
        }
        if (good) {
            quadratic(&y, (double *[]){q[F], q[RUNNING], q[C], q[Q_JACOBIAN], q[Q_HESSIAN]}, now[R_PATH], next);
            double *own[] = {next[M_SLOPE], next[M_ADJOINT], q[Q_JACOBIAN], now[R_STAGE], now[R_GAP], now[R_PATH], now[R_TERMINAL], q[Q_END_SLOPE], q[Q_END_JACOBIAN]};
            worst(&y, own, next + M_DUAL);
        }
        Py_END_ALLOW_THREADS
    }
    return answered(&y, entered, good);
}
