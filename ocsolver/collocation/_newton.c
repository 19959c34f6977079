/* The Newton system of the collocated maximum principle, group by group: the same as `kkt.newton_direction` in NumPy.

   Dense elimination with row pivoting does both parts: the stages of an interval as functions of dx_k and dq_{k+1},
   and then the nodes as an almost block diagonal system. After interval k, v equations are left on (dx_{k+1}, dq_{k+1}).
*/
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Eliminate the first `columns` columns of a (rows, width); 0 if a pivot vanishes or is no number. */
static int reduce(double *a, int rows, int width, int columns)
{
    for (int c = 0; c < columns; c++) {
        int best = c;
        double size = fabs(a[c * width + c]);
        for (int r = c + 1; r < rows; r++)
            if (fabs(a[r * width + c]) > size) {
                size = fabs(a[r * width + c]);
                best = r;
            }
        if (!(size > 0.0 && isfinite(size)))
            return 0;
        double *restrict pivot = a + c * width;
        if (best != c) {
            double *other = a + best * width;
            for (int j = c; j < width; j++) {
                double swap = pivot[j];
                pivot[j] = other[j];
                other[j] = swap;
            }
        }
        double inverse = 1.0 / pivot[c];
        for (int r = c + 1; r < rows; r++) {
            double *restrict row = a + r * width, factor = row[c] * inverse;
            if (factor != 0.0)
                for (int j = c + 1; j < width; j++)
                    row[j] -= factor * pivot[j];
        }
    }
    return 1;
}

/* Solve the triangular system that `reduce` left in the first n rows and columns; the columns after them are overwritten. */
static void substitute(double *a, int n, int width)
{
    for (int i = n - 1; i >= 0; i--) {
        double *restrict row = a + i * width;
        for (int l = i + 1; l < n; l++) {
            const double *restrict known = a + l * width;
            double factor = row[l];
            if (factor != 0.0)
                for (int j = n; j < width; j++)
                    row[j] -= factor * known[j];
        }
        double inverse = 1.0 / row[i];
        for (int j = n; j < width; j++)
            row[j] *= inverse;
    }
}

enum { ALPHA, ADJOINT, ROW, D_, B_, TABLES };
enum { H, HESSIAN, RATES, RIGHT_Z, RIGHT_P, GAP_X, GAP_Q, INSIDE };
enum { START_X, START_Q, START_RIGHT, END_HESSIAN, JACOBIAN, SLACK, END_RIGHT, CONSTRAINT_RIGHT, ENDS };
enum { X, U, P, NODES, COSTATES, MULTIPLIERS, RESULTS };

typedef struct {
    Py_buffer tables[TABLES], inside[INSIDE], ends[ENDS], results[RESULTS];
    int N, s, G, v, m, e;
} System;

static double *at(const Py_buffer *b, Py_ssize_t i, Py_ssize_t j, Py_ssize_t k)
{
    char *place = (char *)b->buf + i * b->strides[0] + j * b->strides[1];
    return (double *)(b->ndim > 2 ? place + k * b->strides[2] : place);
}

/* Stages of interval k: rows (S, S + 1 + 2v) of [matrix | right-hand side, dx_k, dq_{k+1}]. */
static void stages(const System *y, int k, int g, double *a)
{
    const int s = y->s, v = y->v, D = y->v + y->m, split = s * D, S = s * (D + v), width = S + 1 + 2 * v;
    const double *alpha = y->tables[ALPHA].buf, *adjoint = y->tables[ADJOINT].buf, *row = y->tables[ROW].buf;
    const double *d = y->tables[D_].buf, *b = y->tables[B_].buf;
    const double h = *at(&y->inside[H], k, g, 0);
    memset(a, 0, sizeof(double) * S * width);
    for (int i = 0; i < s; i++) {
        const double *W = at(&y->inside[HESSIAN], k, i, g), *f = at(&y->inside[RATES], k, i, g);
        const double *rz = at(&y->inside[RIGHT_Z], k, i, g), *rp = at(&y->inside[RIGHT_P], k, i, g);
        for (int r = 0; r < D; r++) {
            double *line = a + (i * D + r) * width;
            for (int c = 0; c < D; c++)
                line[i * D + c] = h * W[r * D + c];
            for (int c = 0; c < v; c++)
                line[split + i * v + c] = -h * f[c * D + r];
            line[S] = rz[r];
        }
        for (int r = 0; r < v; r++) {
            double *upper = a + (i * D + r) * width, *lower = a + (split + i * v + r) * width;
            for (int j = 0; j < s; j++) {
                upper[split + j * v + r] += adjoint[i * s + j];
                lower[j * D + r] += alpha[i * s + j];
            }
            for (int c = 0; c < D; c++)
                lower[i * D + c] -= h * f[r * D + c];
            upper[S + 1 + v + r] = d[i] / b[i];
            lower[S + 1 + r] = row[i];
            lower[S] = rp[r];
        }
    }
}

static int solve_group(const System *y, int g, double *local, double *found, double *block, double *pivots)
{
    const int N = y->N, s = y->s, v = y->v, D = y->v + y->m, e = y->e, two = 2 * v;
    const int split = s * D, S = s * (D + v), inputs = 1 + two, wide = S + inputs, width = 4 * v + 1;
    const double *d = y->tables[D_].buf, *b = y->tables[B_].buf, *row = y->tables[ROW].buf;
    double rest = 1.0;
    for (int i = 0; i < s; i++)
        rest -= d[i];

    memset(block, 0, sizeof(double) * 3 * v * width);
    for (int i = 0; i < v; i++) {
        block[i * width + i] = at(&y->ends[START_X], g, i, 0)[0];
        block[i * width + v + i] = at(&y->ends[START_Q], g, i, 0)[0];
        block[i * width + 4 * v] = at(&y->ends[START_RIGHT], g, i, 0)[0];
    }
    for (int k = 0; k < N; k++) {
        stages(y, k, g, local);
        if (!reduce(local, S, wide, S))
            return 0;
        substitute(local, S, wide);
        double *solved = found + (size_t)k * S * inputs;
        for (int r = 0; r < S; r++)
            memcpy(solved + r * inputs, local + r * wide + S, sizeof(double) * inputs);
        /* dx_{k+1} − E dx_k − F dq_{k+1} = r, dq_k − Q dx_k − R dq_{k+1} = t, below what the intervals before left */
        memset(block + v * width, 0, sizeof(double) * two * width);
        for (int i = 0; i < v; i++) {
            double *ahead = block + (v + i) * width, *back = block + (two + i) * width;
            ahead[two + i] = back[v + i] = 1.0;
            ahead[i] = back[3 * v + i] = -rest;
            ahead[4 * v] = at(&y->inside[GAP_X], k, g, 0)[i];
            back[4 * v] = at(&y->inside[GAP_Q], k, g, 0)[i];
            for (int j = 0; j < s; j++) {
                const double *x = solved + (j * D + i) * inputs, *p = solved + (split + j * v + i) * inputs;
                const double weight = b[j] * row[j];
                for (int c = 0; c < v; c++) {
                    ahead[c] -= d[j] * x[1 + c];
                    ahead[3 * v + c] -= d[j] * x[1 + v + c];
                    back[c] -= weight * p[1 + c];
                    back[3 * v + c] -= weight * p[1 + v + c];
                }
                ahead[4 * v] += d[j] * x[0];
                back[4 * v] += weight * p[0];
            }
        }
        if (!reduce(block, 3 * v, width, two))
            return 0;
        memcpy(pivots + (size_t)k * two * width, block, sizeof(double) * two * width);
        for (int i = 0; i < v; i++) { /* what is left becomes the first rows, on (dx_{k+1}, dq_{k+1}) */
            double *left = block + (two + i) * width, *first = block + i * width;
            memmove(first, left + two, sizeof(double) * two);
            memset(first + two, 0, sizeof(double) * two);
            first[4 * v] = left[4 * v];
        }
    }

    const int size = two + e, last = size + 1; /* the end: unknowns dx_N, dq_N, dν */
    memset(local, 0, sizeof(double) * size * last);
    const double *H_end = at(&y->ends[END_HESSIAN], g, 0, 0), *J = at(&y->ends[JACOBIAN], g, 0, 0);
    for (int i = 0; i < v; i++) {
        double *upper = local + i * last, *lower = local + (v + i) * last;
        memcpy(upper, block + i * width, sizeof(double) * two);
        upper[size] = block[i * width + 4 * v];
        memcpy(lower, H_end + i * v, sizeof(double) * v);
        lower[v + i] = 1.0;
        for (int c = 0; c < e; c++)
            lower[two + c] = J[c * v + i];
        lower[size] = at(&y->ends[END_RIGHT], g, i, 0)[0];
    }
    for (int c = 0; c < e; c++) {
        double *line = local + (two + c) * last;
        memcpy(line, J + c * v, sizeof(double) * v);
        line[two + c] = -at(&y->ends[SLACK], g, c, 0)[0];
        line[size] = at(&y->ends[CONSTRAINT_RIGHT], g, c, 0)[0];
    }
    if (!reduce(local, size, last, size))
        return 0;
    substitute(local, size, last);

    double *now = block, *next = block + two, total = 0.0; /* (dx_k, dq_k) and (dx_{k+1}, dq_{k+1}) */
    for (int i = 0; i < two; i++)
        next[i] = local[i * last + size];
    for (int c = 0; c < e; c++)
        at(&y->results[MULTIPLIERS], g, c, 0)[0] = local[(two + c) * last + size];
    memcpy(at(&y->results[NODES], N, g, 0), next, sizeof(double) * v);
    memcpy(at(&y->results[COSTATES], N, g, 0), next + v, sizeof(double) * v);
    for (int k = N - 1; k >= 0; k--) {
        const double *rows = pivots + (size_t)k * two * width;
        for (int i = two - 1; i >= 0; i--) {
            double value = rows[i * width + 4 * v];
            for (int c = 0; c < two; c++)
                value -= rows[i * width + two + c] * next[c];
            for (int c = i + 1; c < two; c++)
                value -= rows[i * width + c] * now[c];
            now[i] = value / rows[i * width + i];
        }
        memcpy(at(&y->results[NODES], k, g, 0), now, sizeof(double) * v);
        memcpy(at(&y->results[COSTATES], k, g, 0), now + v, sizeof(double) * v);
        const double *solved = found + (size_t)k * S * inputs;
        for (int r = 0; r < S; r++) {
            double value = solved[r * inputs];
            for (int c = 0; c < v; c++)
                value += solved[r * inputs + 1 + c] * now[c] + solved[r * inputs + 1 + v + c] * next[v + c];
            total += value;
            if (r >= split)
                at(&y->results[P], k, (r - split) / v, g)[(r - split) % v] = value;
            else if (r % D < v)
                at(&y->results[X], k, r / D, g)[r % D] = value;
            else
                at(&y->results[U], k, r / D, g)[r % D - v] = value;
        }
        memcpy(next, now, sizeof(double) * two);
    }
    return isfinite(total);
}

static int get(PyObject *tuple, Py_buffer *buffers, int count, int flags)
{
    for (int i = 0; i < count; i++)
        if (PyObject_GetBuffer(PyTuple_GetItem(tuple, i), &buffers[i], flags) < 0) {
            for (int j = 0; j < i; j++)
                PyBuffer_Release(&buffers[j]);
            return 0;
        }
    return 1;
}

static void release(Py_buffer *buffers, int count)
{
    for (int i = 0; i < count; i++)
        PyBuffer_Release(&buffers[i]);
}

static PyObject *solve(PyObject *module, PyObject *arguments)
{
    PyObject *tables, *inside, *ends, *results;
    System y;
    if (!PyArg_ParseTuple(
            arguments, "O!O!O!O!", &PyTuple_Type, &tables, &PyTuple_Type, &inside, &PyTuple_Type, &ends, &PyTuple_Type,
            &results
        ))
        return NULL;
    if (PyTuple_Size(tables) != TABLES || PyTuple_Size(inside) != INSIDE || PyTuple_Size(ends) != ENDS ||
        PyTuple_Size(results) != RESULTS) {
        PyErr_SetString(PyExc_TypeError, "wrong number of arrays");
        return NULL;
    }
    int good = -1;
    if (!get(tables, y.tables, TABLES, PyBUF_STRIDES))
        return NULL;
    if (!get(inside, y.inside, INSIDE, PyBUF_STRIDES))
        goto without_inside;
    if (!get(ends, y.ends, ENDS, PyBUF_STRIDES))
        goto without_ends;
    if (!get(results, y.results, RESULTS, PyBUF_STRIDES | PyBUF_WRITABLE))
        goto without_results;
    const Py_ssize_t *shape = y.inside[RATES].shape; /* (N, s, G, v, v + m) */
    y.N = (int)shape[0], y.s = (int)shape[1], y.G = (int)shape[2], y.v = (int)shape[3], y.m = (int)(shape[4] - shape[3]);
    y.e = (int)y.ends[SLACK].shape[1];
    const int v = y.v, S = y.s * (2 * v + y.m), size = 2 * v + y.e;
    const size_t rows = (size_t)(S > size ? S : size);
    double *local = malloc(sizeof(double) * rows * (rows + 1 + 2 * v));
    double *found = malloc(sizeof(double) * y.N * S * (1 + 2 * v));
    double *block = malloc(sizeof(double) * 3 * v * (4 * v + 1));
    double *pivots = malloc(sizeof(double) * y.N * 2 * v * (4 * v + 1));
    if (local && found && block && pivots) {
        Py_BEGIN_ALLOW_THREADS
        good = 1;
        for (int g = 0; g < y.G && good; g++)
            good = solve_group(&y, g, local, found, block, pivots);
        Py_END_ALLOW_THREADS
    } else
        PyErr_NoMemory();
    free(local), free(found), free(block), free(pivots);
    release(y.results, RESULTS);
without_results:
    release(y.ends, ENDS);
without_ends:
    release(y.inside, INSIDE);
without_inside:
    release(y.tables, TABLES);
    return good < 0 ? NULL : PyBool_FromLong(good);
}

static PyMethodDef methods[] = {
    {"solve", solve, METH_VARARGS, "solve(tables, inside, ends, results) -> bool: fill the results; False if singular."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_newton", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__newton(void) { return PyModule_Create(&module); }
