/* The Newton system of the collocated maximum principle, group by group: the same as `kkt.directions` in NumPy.

   First the stages of an interval as functions of dx_k and dq_{k+1} (`_stages.h`), then the nodes as an almost block
   diagonal system, by dense elimination with row exchanges: after interval k, v equations are left on (dx_{k+1}, dq_{k+1}).
*/
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdlib.h>

#include "_kernels.h"
#include "_stages.h"

/* Rows [r, E, F] and [t, Q, R] of dx_{k+1} = r + E dx_k + F dq_{k+1} and dq_k = t + Q dx_k + R dq_{k+1}, gaps left out:
   link (2v, 1 + 2v). */
WIDE static void connect(const System *y, const lanes *found, lanes *link)
{
    const int s = y->s, v = y->v, D = v + y->m, split = s * D, inputs = 1 + 2 * v;
    const double *d = y->tables[D_].buf, *b = y->tables[B_].buf, *row = y->tables[ROW].buf;
    double rest = 1.0;
    for (int i = 0; i < s; i++)
        rest -= d[i];
    for (int i = 0; i < v; i++) {
        lanes *ahead = link + i * inputs, *back = link + (v + i) * inputs;
        for (int c = 0; c < inputs; c++)
            ahead[c] = back[c] = SPREAD(0.0);
        ahead[1 + i] = back[1 + v + i] = SPREAD(rest);
        for (int j = 0; j < s; j++) {
            const lanes *x = found + (j * D + i) * inputs, *p = found + (split + j * v + i) * inputs;
            const double weight = b[j] * row[j];
            for (int c = 0; c < inputs; c++) {
                ahead[c] += d[j] * x[c];
                back[c] += weight * p[c];
            }
        }
    }
}

/* Stages of four intervals from the nodes: found (S, 1 + 2v) times (1, dx_k, dq_{k+1}). */
WIDE static void apply(const lanes *found, int S, int inputs, const lanes *input, lanes *values)
{
    for (int r = 0; r < S; r++) {
        lanes value = found[r * inputs];
        for (int c = 1; c < inputs; c++)
            value += found[r * inputs + c] * input[c];
        values[r] = value;
    }
}

typedef struct {
    lanes *found, *work, *link;
    double *dense, *left, *rows, *nodes;
} Memory;

/* What is left on (dx_k, dq_k), (v, 1 + 2v) with the right-hand sides first, and interval k, lane l of the links, leave
   the rows that determine (dx_k, dq_k), (2v, 1 + 3v), and what is left on (dx_{k+1}, dq_{k+1}); 0 if they are singular. */
static int advance(const System *y, int k, int g, int l, const Memory *memory)
{
    const int v = y->v, inputs = 1 + 2 * v, width = 1 + 3 * v;
    double *left = memory->left, *rows = memory->rows + (size_t)k * 2 * v * width, *q = rows + v * width;
    double *work = memory->dense; /* columns of dx_k, dx_{k+1}, dq_{k+1}, and the right-hand side */
    const lanes *link = memory->link;
    for (int i = 0; i < v; i++) {
        const lanes *to_q = link + (v + i) * inputs, *to_x = link + i * inputs;
        double *back = q + i * inputs, *ahead = work + (v + i) * width;
        for (int c = 0; c < inputs; c++)
            back[c] = to_q[c][l];
        back[0] += at(&y->inside[GAP_Q], k, g, 0)[i];
        for (int c = 0; c < v; c++) {
            ahead[c] = -to_x[1 + c][l];
            ahead[v + c] = c == i;
            ahead[2 * v + c] = -to_x[1 + v + c][l];
        }
        ahead[3 * v] = to_x[0][l] + at(&y->inside[GAP_X], k, g, 0)[i];
    }
    for (int i = 0; i < v; i++) { /* dq_k is put into what is left, whose rows keep the scale of dx: so this is stable */
        const double *from = left + i * inputs;
        double *row = work + i * width;
        for (int c = 0; c < v; c++) {
            row[c] = from[1 + c];
            row[v + c] = row[2 * v + c] = 0.0;
        }
        row[3 * v] = from[0];
        for (int j = 0; j < v; j++) {
            const double scale = from[1 + v + j], *back = q + j * inputs;
            for (int c = 0; c < v; c++) {
                row[c] += scale * back[1 + c];
                row[2 * v + c] += scale * back[1 + v + c];
            }
            row[3 * v] -= scale * back[0];
        }
    }
    if (!reduce(work, 2 * v, width, v))
        return 0;
    memcpy(rows, work, sizeof(double) * v * width);
    for (int i = 0; i < v; i++) {
        const double *row = work + (v + i) * width;
        double *to = left + i * inputs;
        memcpy(to + 1, row + v, sizeof(double) * 2 * v);
        to[0] = row[3 * v];
    }
    return 1;
}

/* (dx_k, dq_k) from the rows that `advance` left and (dx_{k+1}, dq_{k+1}). */
static void retreat(const double *rows, int v, double *now, const double *next)
{
    const int width = 1 + 3 * v;
    for (int i = v - 1; i >= 0; i--) {
        const double *row = rows + i * width;
        double value = row[3 * v];
        for (int c = 0; c < 2 * v; c++)
            value -= row[v + c] * next[c];
        for (int c = i + 1; c < v; c++)
            value -= row[c] * now[c];
        now[i] = value / row[i];
    }
    for (int i = 0; i < v; i++) {
        const double *row = rows + v * width + i * (1 + 2 * v);
        double value = row[0];
        for (int c = 0; c < v; c++)
            value += row[1 + c] * now[c] + row[1 + v + c] * next[v + c];
        now[v + i] = value;
    }
}

static int solve_group(const System *y, int g, const Memory *memory)
{
    const int N = y->N, s = y->s, v = y->v, m = y->m, D = v + m, e = y->e, two = 2 * v;
    const int split = s * D, S = s * (D + v), inputs = 1 + two, width = 1 + 3 * v;
    double *local = memory->dense, *left = memory->left, *nodes = memory->nodes;

    memset(left, 0, sizeof(double) * v * inputs);
    for (int i = 0; i < v; i++) {
        left[i * inputs] = at(&y->ends[START_RIGHT], g, i, 0)[0];
        left[i * inputs + 1 + i] = at(&y->ends[START_X], g, i, 0)[0];
        left[i * inputs + 1 + v + i] = at(&y->ends[START_Q], g, i, 0)[0];
    }
    for (int first = 0; first < N; first += LANES) {
        lanes *found = memory->found + (size_t)first / LANES * S * inputs;
        const int count = N - first < LANES ? N - first : LANES;
        int trusted[LANES];
        condense(y, first, g, memory->work, found, trusted);
        for (int l = 0; l < count; l++)
            if (!trusted[l]) {
                double *full = local + S * (S + inputs);
                if (!eliminate(y, first + l, g, local, full))
                    return 0;
                for (int r = 0; r < S * inputs; r++)
                    found[r][l] = full[r];
            }
        connect(y, found, memory->link);
        for (int l = 0; l < count; l++)
            if (!advance(y, first + l, g, l, memory))
                return 0;
    }

    const int size = two + e, last = size + 1; /* the end: unknowns dx_N, dq_N, dν */
    memset(local, 0, sizeof(double) * size * last);
    const double *H_end = at(&y->ends[END_HESSIAN], g, 0, 0), *J = at(&y->ends[JACOBIAN], g, 0, 0);
    for (int i = 0; i < v; i++) {
        double *upper = local + i * last, *lower = local + (v + i) * last;
        memcpy(upper, left + i * inputs + 1, sizeof(double) * two);
        upper[size] = left[i * inputs];
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

    for (int i = 0; i < two; i++)
        nodes[N * two + i] = local[i * last + size];
    for (int c = 0; c < e; c++)
        at(&y->results[MULTIPLIERS], g, c, 0)[0] = local[(two + c) * last + size];
    for (int k = N - 1; k >= 0; k--)
        retreat(memory->rows + (size_t)k * two * width, v, nodes + k * two, nodes + (k + 1) * two);
    for (int k = 0; k <= N; k++) {
        memcpy(at(&y->results[NODES], k, g, 0), nodes + k * two, sizeof(double) * v);
        memcpy(at(&y->results[COSTATES], k, g, 0), nodes + k * two + v, sizeof(double) * v);
    }
    lanes *input = memory->link, *values = memory->work, total = SPREAD(0.0);
    for (int first = 0; first < N; first += LANES) {
        const int count = N - first < LANES ? N - first : LANES;
        for (int l = 0; l < LANES; l++) {
            const double *now = nodes + (first + (l < count ? l : 0)) * two;
            for (int c = 0; c < v; c++) {
                input[1 + c][l] = now[c];
                input[1 + v + c][l] = now[two + v + c];
            }
        }
        apply(memory->found + (size_t)first / LANES * S * inputs, S, inputs, input, values);
        for (int l = 0; l < count; l++)
            for (int i = 0; i < s; i++) {
                double *x = at(&y->results[X], first + l, i, g), *u = at(&y->results[U], first + l, i, g);
                double *p = at(&y->results[P], first + l, i, g);
                for (int r = 0; r < v; r++) {
                    x[r] = values[i * D + r][l];
                    p[r] = values[split + i * v + r][l];
                    total[l] += x[r] + p[r];
                }
                for (int r = 0; r < m; r++) {
                    u[r] = values[i * D + v + r][l];
                    total[l] += u[r];
                }
            }
    }
    return isfinite(total[0] + total[1] + total[2] + total[3]);
}

/* Whether the equations of a group are numbers. */
static int has_numbers(const System *y, int g)
{
    const int v = y->v, D = v + y->m, e = y->e, rows[INSIDE] = {1, D * D, v * D, D, v, v, v};
    const int counts[ENDS] = {v, v, v, v * v, e * v, e, v, e};
    double total = 0.0;
    for (int part = 0; part < INSIDE; part++) {
        const int staged = y->inside[part].ndim > 3;
        for (int k = 0; k < y->N; k++)
            for (int i = 0; i < (staged ? y->s : 1); i++) {
                const double *values = staged ? at(&y->inside[part], k, i, g) : at(&y->inside[part], k, g, 0);
                for (int c = 0; c < rows[part]; c++)
                    total += 0.0 * values[c];
            }
    }
    for (int part = 0; part < ENDS; part++)
        for (int c = 0; c < counts[part]; c++)
            total += 0.0 * at(&y->ends[part], g, 0, 0)[c];
    return total == 0.0;
}

/* No step for a group. */
static void rest(const System *y, int g)
{
    for (int k = 0; k <= y->N; k++) {
        memset(at(&y->results[NODES], k, g, 0), 0, sizeof(double) * y->v);
        memset(at(&y->results[COSTATES], k, g, 0), 0, sizeof(double) * y->v);
        for (int i = 0; k < y->N && i < y->s; i++) {
            memset(at(&y->results[X], k, i, g), 0, sizeof(double) * y->v);
            memset(at(&y->results[U], k, i, g), 0, sizeof(double) * y->m);
            memset(at(&y->results[P], k, i, g), 0, sizeof(double) * y->v);
        }
    }
    memset(at(&y->results[MULTIPLIERS], g, 0, 0), 0, sizeof(double) * y->e);
}

/* The steps of the wanted groups: 1, 0 if one is singular or none is left, or -1 if there is no memory. */
static int solve_groups(const System *y, const char *wanted)
{
    const int v = y->v, S = y->s * (2 * v + y->m), size = 2 * v + y->e;
    const size_t rows = (size_t)(S > size ? S : size);
    const int n = y->s * v, q = y->s * y->m, inputs = 1 + 2 * v, known = 1 + v + q;
    const size_t groups = (size_t)(y->N + LANES - 1) / LANES, one = sizeof(double), four = sizeof(lanes);
    const Memory memory = {
        .found = malloc(four * groups * S * inputs),
        .work = malloc(four * (n * (n + 2 * known + inputs) + q * (q + inputs) + S)),
        .link = malloc(four * 2 * v * inputs),
        .dense = malloc(one * rows * (rows + 2 * inputs)),
        .left = malloc(one * v * inputs),
        .rows = malloc(one * y->N * 2 * v * (1 + 3 * v)),
        .nodes = malloc(one * (y->N + 1) * 2 * v),
    };
    int good = -1;
    if (memory.found && memory.work && memory.link && memory.dense && memory.left && memory.rows && memory.nodes) {
        int solved = 0;
        good = 1;
        for (int g = 0; g < y->G && good; g++)
            if (wanted[g] && solve_group(y, g, &memory))
                solved++;
            else if (wanted[g] && has_numbers(y, g))
                good = 0;
            else
                rest(y, g);
        good = good && solved;
    }
    free(memory.found), free(memory.work), free(memory.link), free(memory.dense), free(memory.left);
    free(memory.rows), free(memory.nodes);
    return good;
}

/* An array of `count` axes before those whose entries, `inner` of them, stand together. */
static Py_buffer packed(double *values, int count, int middle, int last, int inner, Py_ssize_t *strides)
{
    strides[count - 1] = (Py_ssize_t)inner * sizeof(double);
    if (count > 1)
        strides[count - 2] = strides[count - 1] * last;
    if (count > 2)
        strides[0] = strides[1] * middle;
    return (Py_buffer){.buf = values, .ndim = count > 2 ? 4 : count, .strides = strides}; /* of stages there is one axis more */
}

int newton_step(
    const int *shape, double *const *tables, double *const *inside, int rows, double *const *ends, const char *active,
    double *const *results
)
{
    System y = {.N = shape[0], .s = shape[1], .G = shape[2], .v = shape[3], .m = shape[4], .e = shape[5]};
    const int s = y.s, G = y.G, v = y.v, D = v + y.m, e = y.e;
    const int inner[INSIDE] = {1, D * D, rows * D, D, v, v, v}, staged[INSIDE] = {0, 1, 1, 1, 1, 0, 0};
    const int widths[ENDS] = {v, v, v, v * v, e * v, e, v, e}, lasts[ENDS] = {1, 1, 1, v, v, 1, 1, 1};
    const int sizes[RESULTS] = {v, y.m, v, v, v, e};
    Py_ssize_t strides[INSIDE + ENDS + RESULTS][3];
    for (int part = 0; part < TABLES; part++)
        y.tables[part].buf = tables[part];
    for (int part = 0; part < INSIDE; part++)
        y.inside[part] = packed(inside[part], staged[part] ? 3 : 2, s, G, inner[part], strides[part]);
    for (int part = 0; part < ENDS; part++)
        y.ends[part] = packed(ends[part], 2, 0, widths[part] / lasts[part], lasts[part], strides[INSIDE + part]);
    for (int part = 0; part < RESULTS; part++) {
        const int count = part == MULTIPLIERS ? 2 : part < NODES ? 3 : 2;
        const int last = part == MULTIPLIERS ? e : G, entries = part == MULTIPLIERS ? 1 : sizes[part];
        y.results[part] = packed(results[part], count, s, last, entries, strides[INSIDE + ENDS + part]);
    }
    return solve_groups(&y, active);
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

PyObject *py_solve(PyObject *module, PyObject *arguments)
{
    PyObject *tables, *inside, *ends, *results;
    Py_buffer active;
    System y;
    if (!PyArg_ParseTuple(
            arguments, "O!O!O!y*O!", &PyTuple_Type, &tables, &PyTuple_Type, &inside, &PyTuple_Type, &ends, &active,
            &PyTuple_Type, &results
        ))
        return NULL;
    int good = -1;
    if (PyTuple_Size(tables) != TABLES || PyTuple_Size(inside) != INSIDE || PyTuple_Size(ends) != ENDS ||
        PyTuple_Size(results) != RESULTS) {
        PyErr_SetString(PyExc_TypeError, "wrong number of arrays");
        goto without_tables;
    }
    if (!get(tables, y.tables, TABLES, PyBUF_STRIDES))
        goto without_tables;
    if (!get(inside, y.inside, INSIDE, PyBUF_STRIDES))
        goto without_inside;
    if (!get(ends, y.ends, ENDS, PyBUF_STRIDES))
        goto without_ends;
    if (!get(results, y.results, RESULTS, PyBUF_STRIDES | PyBUF_WRITABLE))
        goto without_results;
    const Py_ssize_t *shape = y.inside[RATES].shape; /* (N, s, G, v, v + m) */
    y.N = (int)shape[0], y.s = (int)shape[1], y.G = (int)shape[2], y.v = (int)shape[3], y.m = (int)(shape[4] - shape[3]);
    y.e = (int)y.ends[SLACK].shape[1];
    Py_BEGIN_ALLOW_THREADS
    good = solve_groups(&y, active.buf);
    Py_END_ALLOW_THREADS
    if (good < 0)
        PyErr_NoMemory();
    release(y.results, RESULTS);
without_results:
    release(y.ends, ENDS);
without_ends:
    release(y.inside, INSIDE);
without_inside:
    release(y.tables, TABLES);
without_tables:
    PyBuffer_Release(&active);
    return good < 0 ? NULL : PyBool_FromLong(good);
}
