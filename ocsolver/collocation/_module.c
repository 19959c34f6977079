/* The parts of collocation in C, as one module. */
#include "_kernels.h"

static PyMethodDef methods[] = {
    {"residual", py_residual, METH_VARARGS, "residual(constants, point, mu, values, end, results)"},
    {"model", py_model, METH_VARARGS, "model(constants, point, mu, values, path, results)"},
    {"equations", py_equations, METH_VARARGS, "equations(constants, point, mu, model, results)"},
    {"errors", py_errors, METH_VARARGS, "errors(constants, point, mu, model, results)"},
    {"complete", py_complete, METH_VARARGS, "complete(constants, point, mu, model, direction, results)"},
    {"room", py_room, METH_VARARGS, "room(constants, point, share, moves, results)"},
    {"shift", py_shift, METH_VARARGS, "shift(constants, point, alpha, steps, results)"},
    {"multipliers", py_multipliers, METH_VARARGS, "multipliers(constants, point, mu, moves, values, duals, (share, alpha), results)"},
    {"solve", py_solve, METH_VARARGS, "solve(tables, inside, ends, active, results) -> bool: fill the results, with zeros for groups that are not active\n"
     "or no numbers; False if one is singular, or none is left."},
    {"march", py_march, METH_VARARGS, "march(constants, point, mu, known, places, (times, rules, state, filter, seen), programs, proceed)\n"
     "-> (steps, looks, which point, which model, whether no step leads anywhere, whether it is solved)"},
    {"warm", py_warm, METH_VARARGS, "warm(sizes, sides, (times, x, last), old, (mu, pushes), results, programs) -> bool: False where H is convex"},
    {"between", py_between, METH_VARARGS, "between((ends, slopes, inner), (h,), inside, sides, results)"},
    {"better", py_better, METH_VARARGS, "better((p, y), values, (u,), sides, (better, best))"},
    {"estimate", py_estimate, METH_VARARGS, "estimate(rule, tables, tables of the ends, (t, h, weights, times), inside, sides, path, (grid,), results, programs)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_compiled", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__compiled(void) { return PyModule_Create(&definition); }
