/* Programs of `program.Program`, carried out for blocks of points, so that all registers stay in the cache. */
#ifndef OCSOLVER_TAPE
#define OCSOLVER_TAPE
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define TAPE_BLOCK 32 /* points */

/* The order is that of `program.OPERATIONS`. */
enum {
    ADD, SUB, MUL, DIV, POW, ATAN2, LESS, ATMOST, EQUAL,
    NEG, SQRT, EXP, EXPM1, LOG, LOG1P, SIN, COS, TAN, ASIN, ACOS, ATAN, SINH, COSH, TANH,
    SELECT
};

#define EACH(expression) \
    for (int i = 0; i < TAPE_BLOCK; i++) \
        o[i] = (expression); \
    break

static void carry_out(const int32_t *code, Py_ssize_t steps, double *registers, int count)
{
    /* Whole blocks are faster, zeros behind the last point; functions that are expensive stop there. */
    for (Py_ssize_t k = 0; k < steps; k++, code += 5) {
        double *restrict o = registers + (size_t)code[1] * TAPE_BLOCK;
        const double *a = registers + (size_t)code[2] * TAPE_BLOCK, *b = registers + (size_t)code[3] * TAPE_BLOCK;
        const double *c = registers + (size_t)code[4] * TAPE_BLOCK;
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
            for (int i = count; i < TAPE_BLOCK; i++)
                o[i] = 0.0;
        }
    }
}

/* A program: its instructions, and the memory of its registers. */
typedef struct {
    Py_buffer code, numbers, targets, template;
    int registers, taken;
    double *memory;
} Tape;

static void close_tape(Tape *tape)
{
    Py_buffer *const buffers[] = {&tape->code, &tape->numbers, &tape->targets, &tape->template};
    for (int i = 0; i < tape->taken; i++)
        PyBuffer_Release(buffers[i]);
    free(tape->memory);
    tape->memory = NULL, tape->taken = 0;
}

/* A tape from (code, numbers, registers, targets, template), with room for `more` numbers behind its registers; 0 if there
   is an error, and `close_tape` has to follow in any case. */
static int open_tape(Tape *tape, PyObject *program, size_t more)
{
    Py_buffer *const buffers[] = {&tape->code, &tape->numbers, &tape->targets, &tape->template};
    const int places[] = {0, 1, 3, 4};
    tape->taken = 0, tape->memory = NULL;
    if (!PyTuple_Check(program) || PyTuple_Size(program) != 5) {
        PyErr_SetString(PyExc_TypeError, "expected a program");
        return 0;
    }
    for (int i = 0; i < 4; i++, tape->taken++)
        if (PyObject_GetBuffer(PyTuple_GetItem(program, places[i]), buffers[i], PyBUF_SIMPLE) < 0)
            return 0;
    tape->registers = (int)PyLong_AsLong(PyTuple_GetItem(program, 2));
    if (PyErr_Occurred())
        return 0;
    const Py_ssize_t constants = tape->numbers.len / sizeof(double);
    tape->memory = malloc(((size_t)tape->registers * TAPE_BLOCK + more) * sizeof(double));
    for (Py_ssize_t k = 0; tape->memory && k < constants; k++)
        for (int i = 0; i < TAPE_BLOCK; i++)
            tape->memory[(tape->registers - constants + k) * TAPE_BLOCK + i] = ((double *)tape->numbers.buf)[k];
    if (!tape->memory)
        PyErr_NoMemory();
    return tape->memory != NULL;
}

/* Some tapes from a tuple of as many programs, as above; `close_tapes` has to follow in any case. */
static inline int open_tapes(Tape *tapes, PyObject *programs, int count)
{
    memset(tapes, 0, count * sizeof *tapes);
    if (!PyTuple_Check(programs) || PyTuple_Size(programs) != count) {
        PyErr_Format(PyExc_TypeError, "expected a tuple of %d programs", count);
        return 0;
    }
    for (int i = 0; i < count; i++)
        if (!open_tape(&tapes[i], PyTuple_GetItem(programs, i), 0))
            return 0;
    return 1;
}

static inline void close_tapes(Tape *tapes, int count)
{
    for (int i = 0; i < count; i++)
        close_tape(&tapes[i]);
}

/* Rows of an array with some columns. */
typedef struct {
    double *values;
    Py_ssize_t columns;
} Rows;

/* The program for `count` points of a block. */
static void run_block(const Tape *tape, int count, int ins, const Rows *in, int outs, const Rows *out)
{
    double *place = tape->memory;
    for (int part = 0; part < ins; part++)
        for (Py_ssize_t j = 0; j < in[part].columns; j++, place += TAPE_BLOCK) {
            for (int i = 0; i < count; i++)
                place[i] = in[part].values[i * in[part].columns + j];
            for (int i = count; i < TAPE_BLOCK; i++)
                place[i] = 0.0;
        }
    carry_out(tape->code.buf, tape->code.len / (5 * sizeof(int32_t)), tape->memory, count);
    const double *pattern = tape->template.buf;
    for (int part = 0; part < outs; pattern += out[part++].columns)
        for (int i = 0; i < count; i++)
            memcpy(out[part].values + i * out[part].columns, pattern, sizeof(double) * out[part].columns);
    const int32_t *target = tape->targets.buf;
    for (Py_ssize_t k = tape->targets.len / (3 * sizeof(int32_t)); k > 0; k--, target += 3) {
        const Rows rows = out[target[0]];
        const double *source = tape->memory + (size_t)target[2] * TAPE_BLOCK;
        for (int i = 0; i < count; i++)
            rows.values[i * rows.columns + target[1]] = source[i];
    }
}

/* The program for all points. */
static void run_tape(const Tape *tape, Py_ssize_t points, int ins, const Rows *in, int outs, const Rows *out)
{
    enum { MOST_ROWS = 8 };
    Rows inside[MOST_ROWS], outside[MOST_ROWS];
    for (Py_ssize_t first = 0; first < points; first += TAPE_BLOCK) {
        for (int part = 0; part < ins; part++)
            inside[part] = (Rows){in[part].values + first * in[part].columns, in[part].columns};
        for (int part = 0; part < outs; part++)
            outside[part] = (Rows){out[part].values + first * out[part].columns, out[part].columns};
        run_block(tape, points - first < TAPE_BLOCK ? (int)(points - first) : TAPE_BLOCK, ins, inside, outs, outside);
    }
}
#endif
