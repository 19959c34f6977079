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

/* A program with the arrays that it is called with. */
typedef struct {
    Py_buffer code, numbers, targets, template, inputs[MOST], outputs[MOST];
    int registers, ins, outs;
} Call;

/* Whether the arguments of a call are what they should be; `leave` has to follow if they can be parsed. */
static int enter(PyObject *arguments, Call *call, int *parsed)
{
    PyObject *inside, *outside;
    *parsed = PyArg_ParseTuple(
        arguments, "y*y*iy*y*O!O!", &call->code, &call->numbers, &call->registers, &call->targets, &call->template,
        &PyTuple_Type, &inside, &PyTuple_Type, &outside
    );
    if (!*parsed)
        return 0;
    call->ins = take(inside, call->inputs, PyBUF_C_CONTIGUOUS);
    call->outs = take(outside, call->outputs, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE);
    return call->ins >= 0 && call->outs >= 0;
}

static void leave(Call *call)
{
    release(call->inputs, call->ins < 0 ? -1 - call->ins : call->ins);
    release(call->outputs, call->outs < 0 ? -1 - call->outs : call->outs);
    PyBuffer_Release(&call->code), PyBuffer_Release(&call->numbers);
    PyBuffer_Release(&call->targets), PyBuffer_Release(&call->template);
}

/* Registers, the constants among them filled, and room for `more` numbers behind them. */
static double *memory_of(const Call *call, size_t more)
{
    double *memory = calloc((size_t)call->registers * BLOCK + more, sizeof(double));
    const Py_ssize_t constants = call->numbers.len / sizeof(double);
    for (Py_ssize_t k = 0; memory && k < constants; k++)
        for (int i = 0; i < BLOCK; i++)
            memory[(call->registers - constants + k) * BLOCK + i] = ((double *)call->numbers.buf)[k];
    if (!memory)
        PyErr_NoMemory();
    return memory;
}

/* Rows of an array with some columns. */
typedef struct {
    double *values;
    Py_ssize_t columns;
} Rows;

/* The program for `count` points of a block. */
static void evaluate(const Call *call, double *memory, int count, int ins, const Rows *in, int outs, const Rows *out)
{
    double *place = memory;
    for (int part = 0; part < ins; part++)
        for (Py_ssize_t j = 0; j < in[part].columns; j++, place += BLOCK)
            for (int i = 0; i < count; i++)
                place[i] = in[part].values[i * in[part].columns + j];
    carry_out(call->code.buf, call->code.len / (5 * sizeof(int32_t)), memory, count);
    const double *pattern = call->template.buf;
    for (int part = 0; part < outs; pattern += out[part++].columns)
        for (int i = 0; i < count; i++)
            memcpy(out[part].values + i * out[part].columns, pattern, sizeof(double) * out[part].columns);
    const int32_t *target = call->targets.buf;
    for (Py_ssize_t k = call->targets.len / (3 * sizeof(int32_t)); k > 0; k--, target += 3) {
        const Rows rows = out[target[0]];
        const double *source = memory + (size_t)target[2] * BLOCK;
        for (int i = 0; i < count; i++)
            rows.values[i * rows.columns + target[1]] = source[i];
    }
}

static Rows rows_from(const Py_buffer *array, Py_ssize_t first)
{
    const Py_ssize_t columns = array->shape[1];
    return (Rows){(double *)array->buf + first * columns, columns};
}

static PyObject *run(PyObject *self, PyObject *arguments)
{
    Call call;
    int parsed;
    double *memory = NULL;
    if (enter(arguments, &call, &parsed) && (memory = memory_of(&call, 0))) {
        const Py_ssize_t points = call.ins && call.outs ? call.inputs[0].shape[0] : 0;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t first = 0; first < points; first += BLOCK) {
            Rows in[MOST], out[MOST];
            for (int part = 0; part < call.ins; part++)
                in[part] = rows_from(&call.inputs[part], first);
            for (int part = 0; part < call.outs; part++)
                out[part] = rows_from(&call.outputs[part], first);
            evaluate(&call, memory, points - first < BLOCK ? (int)(points - first) : BLOCK, call.ins, in, call.outs, out);
        }
        Py_END_ALLOW_THREADS
    }
    if (parsed)
        leave(&call);
    if (!memory)
        return NULL;
    free(memory);
    Py_RETURN_NONE;
}

/* Steps of the classical Runge–Kutta method for `count` groups from `first` on; `room` holds 4 v + 1 blocks. */
static void integrate(const Call *call, double *memory, double *room, Py_ssize_t first, int count)
{
    const Py_ssize_t *shape = call->inputs[1].shape, N = shape[0], G = shape[1], m = shape[2];
    const Py_ssize_t v = call->outputs[0].shape[2], block = BLOCK * v;
    double *k2 = room, *k3 = k2 + block, *k4 = k3 + block, *y = k4 + block, *half = y + block;
    for (Py_ssize_t n = 0; n < N; n++) {
        double *t = (double *)call->inputs[0].buf + n * G + first, *after = t + G;
        double *u = (double *)call->inputs[1].buf + (n * G + first) * m;
        double *x = (double *)call->outputs[0].buf + (n * G + first) * v, *next = x + G * v;
        double *k1 = (double *)call->outputs[1].buf + (n * G + first) * v;
        for (int i = 0; i < count; i++)
            half[i] = 0.5 * (t[i] + after[i]);
        evaluate(call, memory, count, 3, (Rows[]){{t, 1}, {x, v}, {u, m}}, 1, &(Rows){k1, v});
        for (int i = 0; i < count * v; i++)
            y[i] = x[i] + 0.5 * (after[i / v] - t[i / v]) * k1[i];
        evaluate(call, memory, count, 3, (Rows[]){{half, 1}, {y, v}, {u, m}}, 1, &(Rows){k2, v});
        for (int i = 0; i < count * v; i++)
            y[i] = x[i] + 0.5 * (after[i / v] - t[i / v]) * k2[i];
        evaluate(call, memory, count, 3, (Rows[]){{half, 1}, {y, v}, {u, m}}, 1, &(Rows){k3, v});
        for (int i = 0; i < count * v; i++)
            y[i] = x[i] + (after[i / v] - t[i / v]) * k3[i];
        evaluate(call, memory, count, 3, (Rows[]){{after, 1}, {y, v}, {u, m}}, 1, &(Rows){k4, v});
        for (int i = 0; i < count * v; i++)
            next[i] = x[i] + (after[i / v] - t[i / v]) / 6.0 * (k1[i] + 2.0 * k2[i] + 2.0 * k3[i] + k4[i]);
    }
}

/* Inputs t (N + 1, G), u (N, G, m); outputs x (N + 1, G, v), whose first row is there, and its rates (N, G, v). */
static PyObject *simulate(PyObject *self, PyObject *arguments)
{
    Call call;
    int parsed, good = enter(arguments, &call, &parsed);
    double *memory = NULL;
    if (good && (call.ins != 2 || call.outs != 2))
        PyErr_SetString(PyExc_ValueError, "two arrays of inputs and two of outputs");
    else if (good && (memory = memory_of(&call, (4 * (size_t)call.outputs[0].shape[2] + 1) * BLOCK))) {
        const Py_ssize_t G = call.inputs[1].shape[1];
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t first = 0; first < G; first += BLOCK) {
            const int count = G - first < BLOCK ? (int)(G - first) : BLOCK;
            integrate(&call, memory, memory + (size_t)call.registers * BLOCK, first, count);
        }
        Py_END_ALLOW_THREADS
    }
    if (parsed)
        leave(&call);
    if (!memory)
        return NULL;
    free(memory);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"run", run, METH_VARARGS, "run(code, numbers, registers, targets, template, inputs, outputs)"},
    {"simulate", simulate, METH_VARARGS, "simulate(code, numbers, registers, targets, template, inputs, outputs)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_program", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__program(void) { return PyModule_Create(&definition); }
