/* The start of `warm.warm_point` from a solution of another mesh, or of a similar problem. */
#include "../tape/_tape.h"
#include "_frame.h"
#include "_kernels.h"

enum { SCALE_U, OWN_SIZE, LENGTH, PRICE_PATH, PRICE_END, SIZES };
enum { U_LOW, U_HIGH, PATH_LOW, PATH_HIGH, END_LOW, END_HIGH, START_LOW, START_HIGH, ALL_SIDES };
enum { C_VALUE, C_JACOBIAN, C_HESSIAN, FUNCTIONS };
enum { OLD_U, OLD_P, OLD_Y, OLD_END, OLD_NU, OLD };
enum { WAY_TIMES, WAY_X, WAY_LAST, WAY };
enum { NEW_U, NEW_SLACK, NEW_Y, NEW_END, NEW_NU, NEW_START, B_CONTROLS, B_PATHS, B_ENDS, B_STARTS, NEW };

static inline double above_zero(double value) { return value > 0.0 || isnan(value) ? value : 0.0; }

/* A value moved inside bounds that differ, by a share of their range or size: `Barrier.inside`. */
static double inside(double value, double lower, double upper, double push)
{
    const double width = push * (upper - lower), left = push * fmax(fabs(lower), 1.0), right = push * fmax(fabs(upper), 1.0);
    if (isfinite(lower))
        value = clipped(value, lower + fmin(left, width), INFINITY);
    return isfinite(upper) ? clipped(value, -INFINITY, upper - fmin(right, width)) : value;
}

/* Bounds and multipliers on the central path of a barrier (2, 2, count), for one of its variables. */
static void centered(double *barrier, size_t count, size_t i, double value, double lower, double upper, int fixed, double mu)
{
    barrier[i] = fixed ? -INFINITY : lower, barrier[count + i] = fixed ? INFINITY : upper;
    barrier[2 * count + i] = mu / room(value - barrier[i]);
    barrier[3 * count + i] = mu / room(barrier[count + i] - value);
}

/* The functions along the way, in memory that is to be freed, and, if asked for, the terminal constraints at its end; NULL if
   there is an error. */
static double *looked(PyObject *programs, size_t points, int G, int v, int m, int e, int k, double **way, double **old, double **values, int ends)
{
    const size_t D = v + m, all = points * (v + 1 + e + (v + 1 + e) * D + D * D) + G;
    Tape tapes[2];
    double *memory = NULL;
    if (open_tapes(tapes, programs, 2) && !(memory = malloc(all * sizeof(double))))
        PyErr_NoMemory();
    if (memory) {
        double *f = memory, *running = f + points * v, *c = running + points, *J = c + points * e, *B = J + points * (v + 1 + e) * D;
        const Rows in[] = {{way[WAY_TIMES], 1}, {way[WAY_X], v}, {old[OLD_U], m}, {old[OLD_P], v}, {old[OLD_Y], e}};
        const Rows out[] = {{f, v}, {running, 1}, {c, e}, {J, (v + 1 + e) * D}, {B, D * D}};
        run_tape(&tapes[0], (Py_ssize_t)points, 5, in, 5, out);
        values[C_VALUE] = c, values[C_JACOBIAN] = J, values[C_HESSIAN] = B;
        if (ends)
            run_tape(&tapes[1], G, 1, (Rows[]){{way[WAY_LAST], v}}, 2, (Rows[]){{B + points * D * D, 1}, {old[OLD_END], k}});
    }
    close_tapes(tapes, 2);
    return memory;
}

/* True, or False where H is convex in a control between bounds, so that both may be maxima of H: nothing is done. Where
   pushes tell that the solution is that of another problem, its terminal constraints are found anew. */
PyObject *py_warm(PyObject *self, PyObject *arguments)
{
    Frame y;
    double *sizes[SIZES], *limits[ALL_SIDES], *values[FUNCTIONS] = {NULL}, *old[OLD], *numbers[2], *way[WAY], *out[NEW], *memory = NULL;
    double **arrays[] = {sizes, limits, way, old, numbers, out};
    const int counts[] = {SIZES, ALL_SIDES, WAY, OLD, 2, NEW};
    if (PyTuple_Size(arguments) != 7) {
        PyErr_SetString(PyExc_TypeError, "expected 7 arguments");
        return NULL;
    }
    PyObject *parts = PyTuple_GetSlice(arguments, 0, 6), *programs = PyTuple_GetItem(arguments, 6);
    if (!parts)
        return NULL;
    if (!take_all(&y, parts, 6, arrays, counts)) {
        Py_DECREF(parts);
        return leave(&y, 0);
    }
    const int first = SIZES + ALL_SIDES + WAY;
    const Py_ssize_t *u = y.buffers[first + OLD_U].shape;
    const int s = (int)u[1], G = (int)u[2], m = (int)u[3], v = (int)y.buffers[first + OLD_P].shape[3];
    const int e = (int)y.buffers[first + OLD_Y].shape[3], k = (int)y.buffers[first + OLD_NU].shape[1], D = v + m;
    const size_t points = (size_t)u[0] * s * G;
    memory = looked(programs, points, G, v, m, e, k, way, old, values, numbers[1][0] > 0.0);
    Py_DECREF(parts);
    if (!memory)
        return leave(&y, 0);
    double most = 0.0;
    int convex = 0;
    for (size_t at = 0; at < points; at++)
        for (int j = v; j < D; j++)
            most = larger(most, fabs(values[C_HESSIAN][(at * D + j) * D + j]));
    for (size_t at = 0; at < points; at++)
        for (int j = 0; j < m; j++)
            convex |= values[C_HESSIAN][(at * D + v + j) * D + v + j] < -1e-9 * most && isfinite(limits[U_HIGH][j] - limits[U_LOW][j]);
    if (convex) {
        free(memory);
        leave(&y, 0);
        Py_RETURN_FALSE;
    }
    for (size_t at = 0; at < points; at++) {
        const int g = (int)(at % G);
        const double mu = numbers[0][g], *J = values[C_JACOBIAN] + at * (v + 1 + e) * D;
        for (int j = 0; j < m; j++) {
            const double lower = limits[U_LOW][j], upper = limits[U_HIGH][j], width = upper - lower;
            const double unit = isfinite(width) && width > 0.0 ? width : sizes[SCALE_U][j];
            const double bend = above_zero(values[C_HESSIAN][(at * D + v + j) * D + v + j]);
            const double r = weighted(J, old[OLD_P] + at * v, old[OLD_Y] + at * e, v, e, D, v + j); /* −∂H/∂u */
            double value = old[OLD_U][at * m + j];
            const double low = mu / (above_zero(r) + 4.0 * mu / unit), high = mu / (above_zero(-r) + 4.0 * mu / unit);
            if (lower == upper)
                value = lower;
            else {
                if (r > 0.0 && r >= bend * (value - lower))
                    value = lower + low;
                else if (r < 0.0 && -r >= bend * (upper - value))
                    value = upper - high;
                value = clipped(value, lower + low, upper - high);
            }
            out[NEW_U][at * m + j] = value;
            centered(out[B_CONTROLS], points * m, at * m + j, value, lower, upper, lower == upper, mu);
        }
        for (int j = 0; j < e; j++) {
            const size_t place = at * e + j;
            const double lower = limits[PATH_LOW][j], upper = limits[PATH_HIGH][j], width = upper - lower;
            const double most = 0.9 * sizes[PRICE_PATH][place], nu = clipped(old[OLD_Y][place], -most, most);
            const double share = isfinite(width) && width > 0.0 && 0.25 * width < 1.0 ? 0.25 * width : 1.0;
            const double reach = share * sqrt(mu * sizes[LENGTH][g] / sizes[OWN_SIZE][g]);
            const double below = mu / (above_zero(-nu) + mu / reach), above = mu / (above_zero(nu) + mu / reach);
            const double bottom = lower + below, top = upper - above;
            const double value = lower == upper ? lower : clipped(values[C_VALUE][place], bottom, top > bottom ? top : bottom);
            out[NEW_Y][place] = nu, out[NEW_SLACK][place] = value;
            centered(out[B_PATHS], points * e, place, value, lower, upper, lower == upper, mu);
        }
    }
    for (int g = 0; g < G; g++) {
        const double mu = numbers[0][g] * sizes[LENGTH][g], *pushes = numbers[1];
        for (int j = 0; j < k; j++) {
            const size_t place = (size_t)g * k + j;
            const double lower = limits[END_LOW][j], upper = limits[END_HIGH][j], most = 0.99 * sizes[PRICE_END][place];
            const double value = lower == upper ? lower : inside(old[OLD_END][place], lower, upper, pushes[1]);
            out[NEW_END][place] = value, out[NEW_NU][place] = clipped(old[OLD_NU][place], -most, most);
            centered(out[B_ENDS], (size_t)G * k, place, value, lower, upper, lower == upper, mu);
        }
        for (int j = 0; j < v; j++) {
            const size_t place = (size_t)g * v + j;
            const double lower = limits[START_LOW][place], upper = limits[START_HIGH][place], was = out[NEW_START][place];
            const double value = lower == upper ? lower : pushes[0] > 0.0 ? inside(was, lower, upper, pushes[0]) : was;
            out[NEW_START][place] = value;
            centered(out[B_STARTS], (size_t)G * v, place, value, lower, upper, lower == upper, mu);
        }
    }
    free(memory);
    leave(&y, 0);
    Py_RETURN_TRUE;
}
