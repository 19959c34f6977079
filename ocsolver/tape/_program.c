/* Programs of `program.Program` for Python. */
#include "_tape.h"

#define MOST 8 /* arrays of inputs */

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
    Tape tape;
    Py_buffer inputs[MOST], outputs[MOST];
    int ins, outs;
} Call;

/* Whether the arguments of a call are what they should be; `leave` has to follow. */
static int enter(PyObject *arguments, Call *call)
{
    PyObject *program, *inside, *outside;
    call->ins = call->outs = call->tape.taken = 0, call->tape.memory = NULL;
    if (!PyArg_ParseTuple(arguments, "O!O!O!", &PyTuple_Type, &program, &PyTuple_Type, &inside, &PyTuple_Type, &outside))
        return 0;
    call->ins = take(inside, call->inputs, PyBUF_C_CONTIGUOUS);
    call->outs = take(outside, call->outputs, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE);
    return call->ins >= 0 && call->outs >= 0;
}

static void leave(Call *call)
{
    close_tape(&call->tape);
    release(call->inputs, call->ins < 0 ? -1 - call->ins : call->ins);
    release(call->outputs, call->outs < 0 ? -1 - call->outs : call->outs);
}

static Rows rows_of(const Py_buffer *array) { return (Rows){array->buf, array->shape[1]}; }

static PyObject *run(PyObject *self, PyObject *arguments)
{
    Call call;
    const int good = enter(arguments, &call) && open_tape(&call.tape, PyTuple_GetItem(arguments, 0), 0);
    if (good) {
        const Py_ssize_t points = call.ins && call.outs ? call.inputs[0].shape[0] : 0;
        Rows in[MOST], out[MOST];
        for (int part = 0; part < call.ins; part++)
            in[part] = rows_of(&call.inputs[part]);
        for (int part = 0; part < call.outs; part++)
            out[part] = rows_of(&call.outputs[part]);
        Py_BEGIN_ALLOW_THREADS
        run_tape(&call.tape, points, call.ins, in, call.outs, out);
        Py_END_ALLOW_THREADS
    }
    leave(&call);
    if (!good)
        return NULL;
    Py_RETURN_NONE;
}

/* Steps of the classical Runge–Kutta method for `count` groups from `first` on; `room` holds 4 v + 1 blocks. */
static void integrate(const Call *call, double *room, Py_ssize_t first, int count)
{
    const Py_ssize_t *shape = call->inputs[1].shape, N = shape[0], G = shape[1], m = shape[2];
    const Py_ssize_t v = call->outputs[0].shape[2], block = TAPE_BLOCK * v;
    double *k2 = room, *k3 = k2 + block, *k4 = k3 + block, *y = k4 + block, *half = y + block;
    for (Py_ssize_t n = 0; n < N; n++) {
        double *t = (double *)call->inputs[0].buf + n * G + first, *after = t + G;
        double *u = (double *)call->inputs[1].buf + (n * G + first) * m;
        double *x = (double *)call->outputs[0].buf + (n * G + first) * v, *next = x + G * v;
        double *k1 = (double *)call->outputs[1].buf + (n * G + first) * v;
        for (int i = 0; i < count; i++)
            half[i] = 0.5 * (t[i] + after[i]);
        run_block(&call->tape, count, 3, (Rows[]){{t, 1}, {x, v}, {u, m}}, 1, &(Rows){k1, v});
        for (int i = 0; i < count * v; i++)
            y[i] = x[i] + 0.5 * (after[i / v] - t[i / v]) * k1[i];
        run_block(&call->tape, count, 3, (Rows[]){{half, 1}, {y, v}, {u, m}}, 1, &(Rows){k2, v});
        for (int i = 0; i < count * v; i++)
            y[i] = x[i] + 0.5 * (after[i / v] - t[i / v]) * k2[i];
        run_block(&call->tape, count, 3, (Rows[]){{half, 1}, {y, v}, {u, m}}, 1, &(Rows){k3, v});
        for (int i = 0; i < count * v; i++)
            y[i] = x[i] + (after[i / v] - t[i / v]) * k3[i];
        run_block(&call->tape, count, 3, (Rows[]){{after, 1}, {y, v}, {u, m}}, 1, &(Rows){k4, v});
        for (int i = 0; i < count * v; i++)
            next[i] = x[i] + (after[i / v] - t[i / v]) / 6.0 * (k1[i] + 2.0 * k2[i] + 2.0 * k3[i] + k4[i]);
    }
}

/* Inputs t (N + 1, G), u (N, G, m); outputs x (N + 1, G, v), whose first row is there, and its rates (N, G, v). */
static PyObject *simulate(PyObject *self, PyObject *arguments)
{
    Call call;
    int good = enter(arguments, &call);
    if (good && (call.ins != 2 || call.outs != 2)) {
        PyErr_SetString(PyExc_ValueError, "two arrays of inputs and two of outputs");
        good = 0;
    }
    const size_t more = good ? (4 * (size_t)call.outputs[0].shape[2] + 1) * TAPE_BLOCK : 0;
    good = good && open_tape(&call.tape, PyTuple_GetItem(arguments, 0), more);
    if (good) {
        const Py_ssize_t G = call.inputs[1].shape[1];
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t first = 0; first < G; first += TAPE_BLOCK) {
            const int count = G - first < TAPE_BLOCK ? (int)(G - first) : TAPE_BLOCK;
            integrate(&call, call.tape.memory + (size_t)call.tape.registers * TAPE_BLOCK, first, count);
        }
        Py_END_ALLOW_THREADS
    }
    leave(&call);
    if (!good)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"run", run, METH_VARARGS, "run(program, inputs, outputs)"},
    {"simulate", simulate, METH_VARARGS, "simulate(program, inputs, outputs)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_program", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__program(void) { return PyModule_Create(&definition); }
