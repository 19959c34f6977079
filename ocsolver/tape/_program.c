/* A program of `program.Program`, carried out for blocks of points, so that all registers stay in the cache. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 32 /* points */
#define MOST 8   /* arrays of inputs */

/* The order is that of `program.OPERATIONS`. */
enum {
    ADD, SUB, MUL, DIV, POW, ATAN2, LESS, ATMOST, EQUAL,
    NEG, SQRT, EXP, EXPM1, LOG, LOG1P, SIN, COS, TAN, ASIN, ACOS, ATAN, SINH, COSH, TANH,
    SELECT
};

#define EACH(expression) \
    for (int i = 0; i < BLOCK; i++) \
        o[i] = (expression); \
    break

static void carry_out(const int32_t *code, Py_ssize_t steps, double *registers, int count)
{
    /* Whole blocks are faster; functions that are expensive stop at the last point. */
    for (Py_ssize_t k = 0; k < steps; k++, code += 5) {
        double *restrict o = registers + (size_t)code[1] * BLOCK;
        const double *a = registers + (size_t)code[2] * BLOCK, *b = registers + (size_t)code[3] * BLOCK;
        const double *c = registers + (size_t)code[4] * BLOCK;
        switch (code[0]) {
        case ADD: EACH(a[i] + b[i]);
        case SUB: EACH(a[i] - b[i]);
        case MUL: EACH(a[i] * b[i]);
        case DIV: EACH(a[i] / b[i]);
        case NEG: EACH(-a[i]);
        case SQRT: EACH(sqrt(a[i]));
        case LESS: EACH(a[i] < b[i] ? 1.0 : 0.0);
        case ATMOST: EACH(a[i] <= b[i] ? 1.0 : 0.0);
        case EQUAL: EACH(a[i] == b[i] ? 1.0 : 0.0);
        case SELECT: EACH(a[i] != 0.0 ? b[i] : c[i]);
        default:
            for (int i = 0; i < count; i++)
                switch (code[0]) {
                case POW: o[i] = pow(a[i], b[i]); break;
                case ATAN2: o[i] = atan2(a[i], b[i]); break;
                case EXP: o[i] = exp(a[i]); break;
                case EXPM1: o[i] = expm1(a[i]); break;
                case LOG: o[i] = log(a[i]); break;
                case LOG1P: o[i] = log1p(a[i]); break;
                case SIN: o[i] = sin(a[i]); break;
                case COS: o[i] = cos(a[i]); break;
                case TAN: o[i] = tan(a[i]); break;
                case ASIN: o[i] = asin(a[i]); break;
                case ACOS: o[i] = acos(a[i]); break;
                case ATAN: o[i] = atan(a[i]); break;
                case SINH: o[i] = sinh(a[i]); break;
                case COSH: o[i] = cosh(a[i]); break;
                case TANH: o[i] = tanh(a[i]); break;
                }
        }
    }
}

/* The buffers of a tuple; how many were taken, or -1 − that if there is an error. */
static int take(PyObject *tuple, Py_buffer *buffers, int flags)
{
    if (PyTuple_Size(tuple) > MOST) {
        PyErr_SetString(PyExc_ValueError, "too many arrays");
        return -1;
    }
    int count = 0;
    for (; count < PyTuple_Size(tuple); count++)
        if (PyObject_GetBuffer(PyTuple_GetItem(tuple, count), &buffers[count], flags) < 0)
            return -1 - count;
    return count;
}

static void release(Py_buffer *buffers, int count)
{
    while (count-- > 0)
        PyBuffer_Release(&buffers[count]);
}

static PyObject *run(PyObject *self, PyObject *arguments)
{
    Py_buffer code, numbers, targets, template, inputs[MOST], outputs[MOST];
    PyObject *inside, *outside;
    int registers, good = 0;
    if (!PyArg_ParseTuple(
            arguments, "y*y*iy*y*O!O!", &code, &numbers, &registers, &targets, &template, &PyTuple_Type, &inside,
            &PyTuple_Type, &outside
        ))
        return NULL;
    int ins = take(inside, inputs, PyBUF_C_CONTIGUOUS), outs = take(outside, outputs, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE);
    double *memory = ins > 0 && outs > 0 ? calloc((size_t)registers * BLOCK, sizeof(double)) : NULL;
    if (memory) {
        good = 1;
        const Py_ssize_t points = inputs[0].shape[0], steps = code.len / (5 * sizeof(int32_t));
        const Py_ssize_t constants = numbers.len / sizeof(double), results = targets.len / (3 * sizeof(int32_t));
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t k = 0; k < constants; k++)
            for (int i = 0; i < BLOCK; i++)
                memory[(registers - constants + k) * BLOCK + i] = ((double *)numbers.buf)[k];
        for (Py_ssize_t first = 0; first < points; first += BLOCK) {
            const int count = points - first < BLOCK ? (int)(points - first) : BLOCK;
            double *place = memory;
            for (int part = 0; part < ins; part++) {
                const Py_ssize_t columns = inputs[part].shape[1];
                const double *values = (double *)inputs[part].buf + first * columns;
                for (Py_ssize_t j = 0; j < columns; j++, place += BLOCK)
                    for (int i = 0; i < count; i++)
                        place[i] = values[i * columns + j];
            }
            carry_out(code.buf, steps, memory, count);
            const double *pattern = template.buf;
            for (int part = 0; part < outs; part++) {
                const Py_ssize_t columns = outputs[part].shape[1];
                double *values = (double *)outputs[part].buf + first * columns;
                for (int i = 0; i < count; i++)
                    memcpy(values + i * columns, pattern, sizeof(double) * columns);
                pattern += columns;
            }
            const int32_t *target = targets.buf;
            for (Py_ssize_t k = 0; k < results; k++, target += 3) {
                const Py_ssize_t columns = outputs[target[0]].shape[1];
                double *values = (double *)outputs[target[0]].buf + first * columns + target[1];
                const double *source = memory + (size_t)target[2] * BLOCK;
                for (int i = 0; i < count; i++)
                    values[i * columns] = source[i];
            }
        }
        Py_END_ALLOW_THREADS
        free(memory);
    } else if (ins >= 0 && outs >= 0)
        PyErr_NoMemory();
    release(inputs, ins < 0 ? -1 - ins : ins), release(outputs, outs < 0 ? -1 - outs : outs);
    PyBuffer_Release(&code), PyBuffer_Release(&numbers), PyBuffer_Release(&targets), PyBuffer_Release(&template);
    if (!good)
        return NULL;
    Py_RETURN_NONE;
}

/* What `rate` needs beside the point. */
typedef struct {
    const int32_t *code, *targets;
    Py_ssize_t steps, results;
    const double *template;
    double *registers;
    Py_ssize_t v, m;
} Rates;

/* f(t, x, u) of a program with the inputs t, x, u and the output f, for `count` points of a block. */
static void rate(const Rates *p, int count, const double *t, const double *x, const double *u, double *f)
{
    double *place = p->registers;
    memcpy(place, t, sizeof(double) * count), place += BLOCK;
    for (Py_ssize_t j = 0; j < p->v; j++, place += BLOCK)
        for (int i = 0; i < count; i++)
            place[i] = x[i * p->v + j];
    for (Py_ssize_t j = 0; j < p->m; j++, place += BLOCK)
        for (int i = 0; i < count; i++)
            place[i] = u[i * p->m + j];
    carry_out(p->code, p->steps, p->registers, count);
    for (int i = 0; i < count; i++)
        memcpy(f + i * p->v, p->template, sizeof(double) * p->v);
    for (Py_ssize_t k = 0; k < p->results; k++)
        for (int i = 0; i < count; i++)
            f[i * p->v + p->targets[3 * k + 1]] = p->registers[(size_t)p->targets[3 * k + 2] * BLOCK + i];
}

static PyObject *simulate(PyObject *self, PyObject *arguments)
{
    Py_buffer code, numbers, targets, template, inputs[MOST], outputs[MOST];
    PyObject *inside, *outside;
    int registers, good = 0;
    if (!PyArg_ParseTuple(
            arguments, "y*y*iy*y*O!O!", &code, &numbers, &registers, &targets, &template, &PyTuple_Type, &inside,
            &PyTuple_Type, &outside
        ))
        return NULL;
    int ins = take(inside, inputs, PyBUF_C_CONTIGUOUS), outs = take(outside, outputs, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE);
    if (ins == 2 && outs == 2) { /* t (N + 1, G), u (N, G, m); x (N + 1, G, v) from its first row on, slopes (N, G, v) */
        const Py_ssize_t N = inputs[1].shape[0], G = inputs[1].shape[1], m = inputs[1].shape[2], v = outputs[0].shape[2];
        const Py_ssize_t constants = numbers.len / sizeof(double), block = BLOCK * v;
        double *memory = calloc((size_t)registers * BLOCK + 4 * block + 2 * BLOCK, sizeof(double));
        if (memory) {
            good = 1;
            Py_BEGIN_ALLOW_THREADS
            const Rates rates = {
                code.buf, targets.buf, code.len / (5 * sizeof(int32_t)), targets.len / (3 * sizeof(int32_t)),
                template.buf, memory, v, m
            };
            double *k2 = memory + (size_t)registers * BLOCK, *k3 = k2 + block, *k4 = k3 + block, *y = k4 + block;
            double *half = y + block;
            for (Py_ssize_t k = 0; k < constants; k++)
                for (int i = 0; i < BLOCK; i++)
                    memory[(registers - constants + k) * BLOCK + i] = ((double *)numbers.buf)[k];
            for (Py_ssize_t first = 0; first < G; first += BLOCK) {
                const int count = G - first < BLOCK ? (int)(G - first) : BLOCK;
                for (Py_ssize_t n = 0; n < N; n++) { /* classical Runge–Kutta */
                    const double *t = (double *)inputs[0].buf + n * G + first, *after = t + G;
                    const double *u = (double *)inputs[1].buf + (n * G + first) * m;
                    double *x = (double *)outputs[0].buf + (n * G + first) * v, *next = x + G * v;
                    double *k1 = (double *)outputs[1].buf + (n * G + first) * v;
                    for (int i = 0; i < count; i++)
                        half[i] = 0.5 * (t[i] + after[i]);
                    rate(&rates, count, t, x, u, k1);
                    for (int i = 0; i < count * v; i++)
                        y[i] = x[i] + 0.5 * (after[i / v] - t[i / v]) * k1[i];
                    rate(&rates, count, half, y, u, k2);
                    for (int i = 0; i < count * v; i++)
                        y[i] = x[i] + 0.5 * (after[i / v] - t[i / v]) * k2[i];
                    rate(&rates, count, half, y, u, k3);
                    for (int i = 0; i < count * v; i++)
                        y[i] = x[i] + (after[i / v] - t[i / v]) * k3[i];
                    rate(&rates, count, after, y, u, k4);
                    for (int i = 0; i < count * v; i++)
                        next[i] = x[i] + (after[i / v] - t[i / v]) / 6.0 * (k1[i] + 2.0 * k2[i] + 2.0 * k3[i] + k4[i]);
                }
            }
            Py_END_ALLOW_THREADS
            free(memory);
        } else
            PyErr_NoMemory();
    } else if (ins >= 0 && outs >= 0)
        PyErr_SetString(PyExc_ValueError, "two arrays of inputs and two of outputs");
    release(inputs, ins < 0 ? -1 - ins : ins), release(outputs, outs < 0 ? -1 - outs : outs);
    PyBuffer_Release(&code), PyBuffer_Release(&numbers), PyBuffer_Release(&targets), PyBuffer_Release(&template);
    if (!good)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"run", run, METH_VARARGS, "run(code, numbers, registers, targets, template, inputs, outputs)"},
    {"simulate", simulate, METH_VARARGS, "simulate(code, numbers, registers, targets, template, inputs, outputs)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_program", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__program(void) { return PyModule_Create(&definition); }
