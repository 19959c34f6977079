/* What the measures, the moves and whole iterations have in common: how they get their arrays, barriers and prices.

   All arrays are contiguous and of doubles. N intervals, s Gauss points, G groups, v states, m controls, D = v + m, e path
   and k terminal constraints; formulas are those of the NumPy methods of the same names.
*/
#define OCSOLVER_FRAME
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <float.h>
#include <math.h>
#include <string.h>

enum { ALPHA, ADJOINT, ROW, D_, B_, H, WEIGHTS, SCALE_X, SCALE_Z, SIZE, DURATION, RHO_PATH, RHO_END, PATH_FIXED, END_FIXED, START_FIXED, START_LOWER, CONSTANTS };
enum { X, U, P, NODES, COSTATES, SLACK, Y, END_SLACK, NU, CONTROLS, Z_CONTROLS, PATHS, Z_PATHS, ENDS, Z_ENDS, STARTS, Z_STARTS, POINT };

enum { MOST = 192 };

typedef struct {
    Py_buffer buffers[MOST];
    int count, N, s, G, v, m, D, e, k;
    double *constants[CONSTANTS], *point[POINT], *mu;
} Frame;

/* The arrays of a tuple; 0 if there is an error. */
static int take(Frame *frame, PyObject *tuple, double **arrays, int count)
{
    if (!PyTuple_Check(tuple) || PyTuple_Size(tuple) != count || frame->count + count > MOST) {
        PyErr_Format(PyExc_TypeError, "expected a tuple of %d arrays", count);
        return 0;
    }
    for (int i = 0; i < count; i++) {
        Py_buffer *buffer = &frame->buffers[frame->count];
        if (PyObject_GetBuffer(PyTuple_GetItem(tuple, i), buffer, PyBUF_C_CONTIGUOUS) < 0)
            return 0;
        frame->count++;
        if (buffer->itemsize != sizeof(double)) {
            PyErr_SetString(PyExc_TypeError, "expected doubles");
            return 0;
        }
        arrays[i] = buffer->buf;
    }
    return 1;
}

/* Some tuples of arrays at once; 0 if there is an error. */
static inline int take_all(Frame *frame, PyObject *arguments, int tuples, double ***arrays, const int *counts)
{
    frame->count = 0;
    if (PyTuple_Size(arguments) != tuples) {
        PyErr_Format(PyExc_TypeError, "expected %d arguments", tuples);
        return 0;
    }
    for (int i = 0; i < tuples; i++)
        if (!take(frame, PyTuple_GetItem(arguments, i), arrays[i], counts[i]))
            return 0;
    return 1;
}

static PyObject *leave(Frame *frame, int good)
{
    for (int i = 0; i < frame->count; i++)
        PyBuffer_Release(&frame->buffers[i]);
    if (!good)
        return NULL;
    Py_RETURN_NONE;
}

/* The arguments of a call: constants, the point, what each group has one number of (μ, or the length of a step), and some
   more tuples, whose arrays are put where `arrays` tells; 0 if there is an error. */
static inline int enter(Frame *frame, PyObject *arguments, int tuples, double ***arrays, const int *counts)
{
    frame->count = 0;
    if (PyTuple_Size(arguments) != 3 + tuples) {
        PyErr_Format(PyExc_TypeError, "expected %d arguments", 3 + tuples);
        return 0;
    }
    if (!take(frame, PyTuple_GetItem(arguments, 0), frame->constants, CONSTANTS) ||
        !take(frame, PyTuple_GetItem(arguments, 1), frame->point, POINT))
        return 0;
    const Py_buffer *x = &frame->buffers[CONSTANTS + X];
    frame->N = (int)x->shape[0], frame->s = (int)x->shape[1], frame->G = (int)x->shape[2], frame->v = (int)x->shape[3];
    frame->m = (int)frame->buffers[CONSTANTS + U].shape[3];
    frame->D = frame->v + frame->m;
    frame->e = (int)frame->buffers[CONSTANTS + SLACK].shape[3];
    frame->k = (int)frame->buffers[CONSTANTS + END_SLACK].shape[1];
    PyObject *alone = PyTuple_Pack(1, PyTuple_GetItem(arguments, 2));
    int good = alone && take(frame, alone, &frame->mu, 1);
    Py_XDECREF(alone);
    for (int i = 0; good && i < tuples; i++)
        good = take(frame, PyTuple_GetItem(arguments, 3 + i), arrays[i], counts[i]);
    return good;
}

/* ------------------------------------------------------------------------------------------- barriers and prices */

/* One variable between bounds: place i of arrays of `count` lower and then `count` upper entries. */
typedef struct {
    double below, above, low, high;
    int lower, upper;
} Sides;

static inline Sides sides(const double *bounds, const double *z, size_t i, size_t count, double value)
{
    const double lower = bounds[i], upper = bounds[count + i];
    Sides y = {value - lower, upper - value, z[i], z[count + i], isfinite(lower), isfinite(upper)};
    return y;
}

#define LOW 1e4 /* factors by which z may be less and more than μ / slack, as in `barrier` */
#define HIGH 1e10

static inline double room(double slack) { return slack > DBL_MIN ? slack : DBL_MIN; }

static inline double curvature(Sides y)
{
    return (y.lower ? y.low / room(y.below) : 0.0) + (y.upper ? y.high / room(y.above) : 0.0);
}

static inline double push(Sides y, double mu)
{
    return (y.upper ? mu / room(y.above) : 0.0) - (y.lower ? mu / room(y.below) : 0.0);
}

static inline double logarithm(Sides y) { return (y.lower ? log(y.below) : 0.0) + (y.upper ? log(y.above) : 0.0); }

static inline double complementarity(Sides y, double mu)
{
    const double a = y.lower ? fabs(y.low * room(y.below) - mu) : 0.0;
    const double b = y.upper ? fabs(y.high * room(y.above) - mu) : 0.0;
    return a > b || isnan(a) ? a : b;
}

/* 1/Σ of a slack; zero where an equality leaves none. */
static inline double loose(Sides y, double fixed)
{
    const double free = 1.0 / curvature(y);
    return fixed != 0.0 ? 0.0 : free < 1e30 ? free : isnan(free) ? free : 1e30;
}

static inline double price(double c, double rho, double mu)
{
    const double root = sqrt(mu * mu + c * rho * c * rho);
    return root - mu - mu * log((mu + root) / (2.0 * mu));
}

static inline double multiplier(double c, double rho, double mu)
{
    const double most = (1.0 - 1e-14) * rho, own = c * rho * rho / (mu + sqrt(mu * mu + c * rho * c * rho));
    return own > most ? most : own < -most ? -most : own;
}

static inline double relation(double nu, double rho, double mu) { return 2.0 * mu * nu / (rho * rho - nu * nu); }

static inline double give(double c, double nu, double rho, double mu)
{
    const double own = multiplier(c, rho, mu);
    return mu / ((rho - own) * (rho - nu)) + mu / ((rho + own) * (rho + nu));
}

static inline double larger(double a, double b) { return b > a || isnan(b) ? b : a; }

/* A value between bounds; the upper one, should they cross. */
static inline double clipped(double value, double lower, double upper)
{
    value = value < lower ? lower : value;
    return value > upper ? upper : value;
}

/* Component i of the gradient of −p·f + L + y·c from the Jacobian of (f, L, c) at a point, as `points.weighted`. */
static inline double weighted(const double *J, const double *p, const double *y, int v, int e, int D, int i)
{
    double result = J[v * D + i];
    for (int r = 0; r < v; r++)
        result -= p[r] * J[r * D + i];
    for (int r = 0; r < e; r++)
        result += y[r] * J[(v + 1 + r) * D + i];
    return result;
}
