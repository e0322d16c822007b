/** heavyA does three times the work of heavyB. */
public class Shares {
    static long sink;

    static long heavyA(int n) {
        long s = 0;
        for (int i = 0; i < n; i++) s += (long) i * i % 7;
        return s;
    }

    static long heavyB(int n) {
        long s = 0;
        for (int i = 0; i < n; i++) s += (long) i * i % 7;
        return s;
    }

    public static void main(String[] args) {
        while (true) {
            sink += heavyA(300000);
            sink += heavyB(100000);
        }
    }
}
