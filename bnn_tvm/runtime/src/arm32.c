/* TVM's code for 32-bit Arm asks for libgcc's names of the integer divisions; the linker's C
 * runtime has those of the Arm EABI, which the divisions below become. */
typedef int bnn_translation_unit_is_not_empty;

#if defined(__arm__)
int __divsi3(int a, int b) { return a / b; }
int __modsi3(int a, int b) { return a % b; }
unsigned __udivsi3(unsigned a, unsigned b) { return a / b; }
unsigned __umodsi3(unsigned a, unsigned b) { return a % b; }
#endif
